"""`./blogstream doctor`: the variables that it checks, and the checks that it leaves out."""

from sandbox.cli.doctor import choose_checks

HOME = {
    "DATABASE_URL": "postgresql://home",
    "KAFKA_BOOTSTRAP_SERVERS": "home:1",
    "OPENAI_API_KEY": "sk-stand-in",
    "OPENAI_BASE_URL": "http://127.0.0.1:3901/v1",
    "OPENAI_TPM": "4000000",
    "REPLICATE_API_TOKEN": "r8-stand-in",
    "REPLICATE_BASE_URL": "http://127.0.0.1:3902",
    "STANDINS": "openai,replicate",
}


def test_running_system_is_checked_with_its_stand_ins() -> None:
    assert choose_checks(HOME, {}, is_running=True) == (HOME, {})


def test_stand_ins_of_a_stopped_system_are_left_out() -> None:
    variables, skip = choose_checks(HOME, {}, is_running=False)
    assert variables["DATABASE_URL"] == "postgresql://home"
    assert skip.keys() == {"openai", "replicate"}


def test_new_key_replaces_the_stand_in_with_its_address_and_limits() -> None:
    variables, skip = choose_checks(HOME, {"OPENAI_API_KEY": "sk-real"}, is_running=True)
    assert variables["OPENAI_API_KEY"] == "sk-real"
    assert not {"OPENAI_BASE_URL", "OPENAI_TPM"} & variables.keys()
    assert variables["REPLICATE_BASE_URL"] == "http://127.0.0.1:3902"
    assert skip == {}


def test_environment_takes_precedence_over_the_home() -> None:
    given = {"DATABASE_URL": "postgresql://mine", "OPENAI_MODEL": ""}
    variables, _ = choose_checks(HOME, given, is_running=True)
    assert variables["DATABASE_URL"] == "postgresql://mine"
    assert "OPENAI_MODEL" not in variables


def test_servers_are_left_out_before_the_first_start() -> None:
    real = {"OPENAI_API_KEY": "sk-real", "IMAGES": "off"}
    variables, skip = choose_checks({}, real, is_running=False)
    assert skip.keys() == {"postgresql", "kafka"}
    assert variables.keys() >= {"DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS"}
