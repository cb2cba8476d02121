"""The verbs of the command line. Imports nothing, so that the help is there at once."""

TRAINER_VERBS = {
    "fit": "train a policy on preference pairs",
    "validate": "measure a policy on the validation pairs",
    "test": "the same, logged under test/",
}
OWN_VERBS = {
    "objectives": "list the objectives, with their formulas and arguments",
}
VERBS = TRAINER_VERBS | OWN_VERBS
