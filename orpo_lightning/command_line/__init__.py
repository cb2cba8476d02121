"""What a person types and reads: configuration files, options, help, completion and errors."""
