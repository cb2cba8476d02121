"""The public names, frozen: a change here is a change for users."""

import orpo_lightning

NAMES = """
    CPO DPO IPO KTO ORPO SFT Filter Format HingeDPO LoraConfig Message NonFiniteError Objective ObjectiveOutput
    OptimizerConfig PairLogps PolicyConfig PreferenceDataModule PreferenceModule ProbabilityRatio ReferenceConfig
    RobustDPO RowError ScheduleConfig SimPO SourceConfig TextRow get_objective list_objectives
"""


def test_the_public_names_are_these():
    assert set(orpo_lightning.__all__) == set(NAMES.split())


def test_every_public_name_is_there_and_documented():
    for name in orpo_lightning.__all__:
        assert getattr(orpo_lightning, name).__doc__, name
    assert set(orpo_lightning.__all__) <= set(dir(orpo_lightning))
