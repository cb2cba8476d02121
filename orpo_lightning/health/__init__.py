"""What a run says by itself when something goes wrong that does not end it: small rules, a sentence each."""
