"""What handrail.toml says of an endpoint: what is wrong with it, who gets its key, and who asks it."""

from __future__ import annotations

from pathlib import Path

import pytest

from handrail.project import limits_of
from handrail.sandbox.profile import profile_of
from handrail.settings import ProjectError, Settings, load_settings
from handrail.stack import parts

FIRST = '[minds]\nplanner = "lam, openai"\nproposer = "tools:openai"\n'
BOTH = '[minds]\nplanner = "openai"\nproposer = "openai"\n'
ENDPOINT = '[openai]\nurl = "http://127.0.0.1:8000/v1/"\nmodel = "Salesforce/xLAM-2-8b-fc-r"\n'


def settings(directory: Path, toml: str) -> Settings:
    (directory / "handrail.toml").write_text(toml)
    return load_settings(directory)


def test_an_endpoint_is_named_and_asked_by_those_who_say_so(tmp_path: Path) -> None:
    said = settings(tmp_path, f'{BOTH}{ENDPOINT}key = "env:MODEL_KEY"\ntimeout_s = 5\n')
    assert said.minds.asking == {"planner", "executor"}
    assert limits_of(said).proposers
    endpoint = parts.endpoint_of(said, tmp_path)
    assert (endpoint.url, endpoint.name) == ("http://127.0.0.1:8000/v1", "openai:Salesforce/xLAM-2-8b-fc-r")
    assert endpoint.timeout_s == 5
    # A function of the project's may be called so.
    assert settings(tmp_path, f"{FIRST}{ENDPOINT}").minds.asking == {"planner"}
    # One may be measured before anybody asks it.
    assert settings(tmp_path, ENDPOINT).minds.asking == frozenset()


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        (BOTH, "[openai] has to say its url and model"),
        ('[openai]\nurl = "http://x/v1"\n', "url and model go together"),
        ('[openai]\nkey = "env:X"\n', "url and model go together, and key with them"),
        (ENDPOINT.replace("http:", "ftp:"), "is not an address like"),
        (ENDPOINT.replace("http://127.0.0.1:8000/v1/", "nonsense"), "is not an address like"),
        (ENDPOINT.replace(":8000", ":99999"), "is not an address like"),
        (ENDPOINT.replace("8000/v1/", "8000/v 1"), "is not an address like"),
        (ENDPOINT.replace("Salesforce/", "Sales force/"), "is not a model's name"),
        (f'{ENDPOINT}key = "sk-live-5f1c9a"\n', "this is no reference to a secret"),
        (f"{ENDPOINT}timeout_s = 0\n", "greater than or equal to 0.1"),
        (f"{ENDPOINT}timeout_s = 1e9\n", "less than or equal to 240"),
        (f"{ENDPOINT}modle = 1\n", "did you mean 'model'"),
        ('[minds]\nplanner = "tools:plan"\n', "minds.planner"),
        (ENDPOINT.replace("127.0.0.1", "models.example.com") + 'key = "env:X"\n', "by https only"),
    ],
)
def test_what_is_wrong_with_it_is_said(tmp_path: Path, toml: str, says: str) -> None:
    with pytest.raises(ProjectError) as error:
        settings(tmp_path, toml)
    assert says in str(error.value)
    assert "sk-live-5f1c9a" not in str(error.value)


def test_an_address_holds_no_secret(tmp_path: Path) -> None:
    for url in (
        "http://me:hunter22@127.0.0.1/v1",
        "http://127.0.0.1/v1?key=hunter22",
        "http://127.0.0.1/#hunter22",
    ):
        with pytest.raises(ProjectError) as error:
            settings(tmp_path, ENDPOINT.replace("http://127.0.0.1:8000/v1/", url))
        assert "a key stands in openai.key" in str(error.value)
        assert "hunter22" not in str(error.value)


def test_those_who_do_not_ask_it_do_not_get_its_key(tmp_path: Path) -> None:
    boxes = '[toolboxes.a]\nmodules = ["a"]\n[toolboxes.a.secrets]\nA = "env:A_KEY"\n'
    asks = ENDPOINT + 'key = "env:MODEL_KEY"\n[minds]\nplanner = "openai"\n'
    said = settings(tmp_path, boxes + asks)
    assert parts.secret_variables(said) == {"A_KEY", "MODEL_KEY"}
    assert parts.secret_variables(said, but="a") == {"MODEL_KEY"}
    assert parts.secret_variables(said, of="planner") == {"A_KEY"}
    assert parts.secret_variables(said, of="executor") == {"A_KEY", "MODEL_KEY"}
    assert parts.secret_variables(said, of="verifier") == {"MODEL_KEY"}
    assert parts.has_secrets(settings(tmp_path, asks))
    assert not parts.has_secrets(settings(tmp_path, ENDPOINT + 'key = "env:MODEL_KEY"\n'))


def test_a_tool_that_is_shut_in_does_not_see_its_file(tmp_path: Path) -> None:
    box = '[toolboxes.a]\nmodules = ["a"]\n[toolboxes.a.may]\n'
    said = settings(tmp_path, f'{ENDPOINT}key = "file:secrets/model"\n{box}')
    assert tmp_path / "secrets" / "model" in profile_of(tmp_path, said, "a", None).hidden
