"""Loading a project: everything that is wrong is told, and projects do not get in each other's way."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import textwrap
from hashlib import sha256
from pathlib import Path

import pytest

from core import playbook
from core.course import MIND_POOL
from handrail.project import Project, ProjectError, Settings, load, load_settings
from handrail.settings import MAX_SETTINGS_BYTES
from handrail.tool import Tool
from handrail.yaml_text import BadYaml, read_yaml

TOML = """
[project]
name = "shop"
[toolboxes.shop]
modules = ["tools"]
workers = 2
concurrency = 3
[toolboxes.shop.env]
SHOP_DB = "shop.db"
[pools.planner]
actors = 2
concurrency = 4
[playbooks]
paths = ["playbooks", "more.yml"]
[limits]
max_steps = 50
[broker]
sync = "relaxed"
shards = 2
url = "nats://127.0.0.1:4222"
[gateway]
listen = "[::1]:0"
"""
TOOLS = """
from handrail.tool import tool
import shelf

@tool(effect="read")
def get_item(item: int) -> dict[str, int]:
    "Look up."
    return {"item": item, "on": shelf.WHERE}
"""
PLAYBOOK = """
name: {name}
phrases: ["find {{item}}"]
slots: {{item: {{type: integer}}}}
steps:
  - id: item
    tool: get_item
    with: {{item: "{{item}}"}}
"""


def write(directory: Path, **files: str) -> Path:
    """Write files; in a name `__` is a directory and the last `_` the dot of the suffix."""
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        stem, _, suffix = name.rpartition("_")
        path = directory / f"{stem.replace('__', '/')}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return directory


def whole(directory: Path, where: int = 1) -> Path:
    return write(
        directory,
        handrail_toml=TOML,
        tools_py=TOOLS,
        shelf_py=f"WHERE = {where}\n",
        playbooks__find_yaml=PLAYBOOK.format(name="find"),
        playbooks__README_md="not a playbook",
        more_yml=PLAYBOOK.format(name="more"),
    )


def problems(directory: Path) -> list[str]:
    with pytest.raises(ProjectError) as wrong:
        load(directory)
    assert str(directory) in str(wrong.value)
    return list(wrong.value.problems)


def test_a_project_is_loaded_whole(tmp_path: Path) -> None:
    def digest(file: str) -> str:
        return sha256((tmp_path / file).read_bytes()).hexdigest()

    project = load(whole(tmp_path))
    assert project.directory == tmp_path.resolve()
    assert list(project.tools) == list(project.contracts) == list(project.protos) == ["get_item"]
    assert project.contracts["get_item"].toolbox == project.protos["get_item"].toolbox == "shop"
    assert project.tools["get_item"].function(4) == {"item": 4, "on": 1}
    assert [p.name for p in project.playbooks] == ["find", "more"]
    assert project.playbook_digests == {"find": digest("playbooks/find.yaml"), "more": digest("more.yml")}
    tool = project.tools["get_item"]
    assert isinstance(tool, Tool)
    assert tool.source_sha256 == digest("tools.py")
    settings = project.settings
    assert (settings.project.name, settings.limits.max_steps) == ("shop", 50)
    shop = settings.toolboxes["shop"]
    assert (shop.modules, shop.workers, shop.concurrency) == (["tools"], 2, 3)
    assert shop.env == {"SHOP_DB": "shop.db"}
    assert (settings.pools.planner.actors, settings.pools.planner.concurrency) == (2, 4)
    assert (settings.pools.verifier.actors, settings.pools.verifier.concurrency) == (1, 16)
    assert (settings.broker.sync, settings.broker.shards) == ("relaxed", 2)
    assert settings.gateway.listen == "[::1]:0"
    assert dataclasses.fields(Project)[0].name == "directory"


def test_every_section_is_optional(tmp_path: Path) -> None:
    project = load(write(tmp_path, handrail_toml=""))
    assert project.settings == Settings()
    assert (project.tools, project.playbooks) == ({}, ())


def test_no_settings_file(tmp_path: Path) -> None:
    assert "handrail init" in problems(tmp_path)[0]
    assert "handrail init" in problems(tmp_path / "nowhere")[0]


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("[brokr]\n", "'brokr' is not a key; did you mean 'broker'?"),
        ("[broker]\nshard = 1\n", "'shard' is not a key of broker; did you mean 'shards'?"),
        (
            "[toolboxes.shop]\nmodules = ['a']\nworker = 1\n",
            "'worker' is not a key of toolboxes.shop; did you mean 'workers'?",
        ),
        ("[pools.planer]\n", "'planer' is not a key of pools; did you mean 'planner'?"),
        ("[pools.planner]\nactor = 1\n", "'actor' is not a key of pools.planner; did you mean 'actors'?"),
        ("[broker]\nzzz = 1\n", "'zzz' is not a key of broker; there are: credentials, shards, sync, url"),
        ("[broker]\nshards = 0\n", "broker.shards: "),
        ("[broker]\nshards = '4'\n", "broker.shards: "),
        ("[broker]\nsync = 'never'\n", "broker.sync: "),
        ("[gateway]\nlisten = 'somewhere'\n", "gateway.listen: 'somewhere' is not an address"),
        ("[toolboxes.shop]\nmodules = []\n", "toolboxes.shop.modules: "),
        ("[toolboxes.shop]\nmodules = ['../x']\n", "is not a module's name"),
        ("[toolboxes.'a.b']\nmodules = ['a']\n", "is not a toolbox's name"),
        (f"[toolboxes.{MIND_POOL}]\nmodules = ['a']\n", "and not 'main'"),
        ("[toolboxes.shop]\n", "toolboxes.shop.modules: Field required"),
        ("[toolboxes.shop.env]\nX = 1\n", "toolboxes.shop.env.X: "),
        ("x = [\n", "is not TOML"),
        ("a = 1\na = 2\n", "is not TOML"),
        ("a = " + "[" * 5_000, "is not TOML"),
        ("a = " + "9" * 5_000, "is not TOML"),
        ("a." * 200_000 + "a = 1", "dots in one key"),
        ("a . " * 2_000 + "a = 1", "dots in one key"),
    ],
    ids=lambda value: value[:20],
)
def test_mistakes_in_the_settings_are_named(tmp_path: Path, toml: str, says: str) -> None:
    found = problems(write(tmp_path, handrail_toml=toml))
    assert any(says in problem for problem in found), found
    assert all(problem.startswith("handrail.toml") for problem in found)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    found = problems(
        write(tmp_path, handrail_toml="[brokr]\n[broker]\nshards=0\nx=1\n[limits]\nmax_steps='a'\n")
    )
    assert len(found) == 4


def test_settings_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "handrail.toml").write_bytes(b"\xff\xfe")
    assert "cannot be read" in problems(tmp_path)[0]
    (tmp_path / "handrail.toml").write_text("#" * (MAX_SETTINGS_BYTES + 1))
    assert "more than" in problems(tmp_path)[0]
    (tmp_path / "handrail.toml").unlink()
    (tmp_path / "handrail.toml").mkdir()
    assert "cannot be read" in problems(tmp_path)[0]


def test_settings_alone_import_nothing(tmp_path: Path) -> None:
    write(tmp_path, handrail_toml=TOML, tools_py="raise SystemExit(3)")
    assert load_settings(tmp_path).project.name == "shop"


BOX = '[toolboxes.shop]\nmodules = ["tools"]\n'


@pytest.mark.parametrize(
    ("tools", "says"),
    [
        ("import os\n\n1 / 0\n", "ZeroDivisionError: division by zero (tools.py, line 3)"),
        ("def f(:\n", "SyntaxError"),
        ("x = 1\nraise SystemExit(3)\n", "SystemExit: 3 (tools.py, line 2)"),
        ("import broken\n", "ValueError: no (broken.py, line 2)"),
        ("import nothing_like_it\n", "No module named 'nothing_like_it' (tools.py, line 1)"),
        ("x = 1\n", "has no tools"),
        (
            "from handrail.tool import tool\n@tool(effect='read')\ndef f(a) -> int: ...\n",
            "TypeError: f: parameter a needs a type (tools.py, line 2)",
        ),
    ],
)
def test_modules_that_cannot_be_imported_are_named_with_the_line(
    tmp_path: Path, tools: str, says: str
) -> None:
    found = problems(
        write(tmp_path, handrail_toml=BOX, tools_py=tools, broken_py="\nraise ValueError('no')\n")
    )
    assert len(found) == 1
    assert "'tools'" in found[0]
    assert says in found[0]


def test_a_module_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    found = problems(write(tmp_path, handrail_toml=BOX.replace('tools"', 'tols"'), tools_py="x = 1"))
    assert found == ["the module 'tols' cannot be imported: there is none; did you mean 'tools'?"]


def test_a_module_mended_after_a_failure_is_loaded(tmp_path: Path) -> None:
    problems(write(tmp_path, handrail_toml=BOX, tools_py="1 / 0\n"))
    write(tmp_path, shelf_py="WHERE = 5\n", tools_py="# mended\n" + TOOLS)
    assert load(tmp_path).tools["get_item"].function(1)["on"] == 5


def test_contradictions_of_contracts_are_told(tmp_path: Path) -> None:
    tools = """
    from handrail.tool import tool

    @tool(effect="write", undo="nothing", post="outpt.x == 1")
    def act(a: int) -> int:
        return a
    """
    found = problems(write(tmp_path, handrail_toml=BOX, tools_py=tools))
    assert [problem.split(":")[0] for problem in found] == ["act.idempotency", "act.undo", "act.post"]


def test_two_projects_with_the_same_module_names_stay_apart(tmp_path: Path) -> None:
    lazy = TOOLS.replace("import shelf\n", "").replace('    "Look up."', "    import shelf")
    one, two = whole(tmp_path / "one", where=1), whole(tmp_path / "two", where=2)
    three = write(whole(tmp_path / "three", where=3), tools_py=lazy)
    first, second, third = load(one), load(two), load(three)
    again = load(one)
    assert [p.tools["get_item"].function(0)["on"] for p in (first, second, again)] == [1, 2, 1]
    assert again.tools["get_item"].function is first.tools["get_item"].function
    assert load(three).tools["get_item"].function(0)["on"] == 3  # imports its sibling when it is called
    assert third.tools["get_item"].function(0)["on"] == 3


def test_a_foreign_module_of_the_same_name_is_not_mistaken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import types

    monkeypatch.setitem(sys.modules, "tools", types.ModuleType("tools"))
    assert list(load(whole(tmp_path)).tools) == ["get_item"]


def test_packages_and_tools_shared_between_toolboxes(tmp_path: Path) -> None:
    toml = '[toolboxes.a]\nmodules = ["pack.a"]\n[toolboxes.b]\nmodules = ["pack.b"]\n'
    a = TOOLS.replace("import shelf\n", "").replace(', "on": shelf.WHERE', "")
    b = a.replace("get_item", "get_other") + "\nfrom pack.a import get_item\n"
    project = load(write(tmp_path, handrail_toml=toml, pack__a_py=a, pack__b_py=b))
    assert {name: c.toolbox for name, c in project.contracts.items()} == {"get_item": "a", "get_other": "b"}


def test_a_tool_defined_twice_is_told(tmp_path: Path) -> None:
    toml = '[toolboxes.a]\nmodules = ["a"]\n[toolboxes.b]\nmodules = ["b"]\n'
    one = TOOLS.replace("import shelf\n", "")
    assert "two tools" in problems(write(tmp_path, handrail_toml=toml, a_py=one, b_py=one))[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: find\nphrases: [", "is not YAML"),
        ("name: find\nnaem: x\nphrases: [find]\nsteps: []\n", "'naem' is not a key; did you mean 'name'?"),
        (
            PLAYBOOK.format(name="find") + "    wiht: {}\n",
            "'wiht' is not a key of steps[0]; did you mean 'with'?",
        ),
        (PLAYBOOK.format(name="find").replace("type", "typ"), "'typ' is not a key of slots.item"),
        (PLAYBOOK.format(name="find").replace("get_item", "get_itm"), "did you mean 'get_item'?"),
        (PLAYBOOK.format(name="more"), "has a playbook 'more' too"),
        ("- a\n", "valid dictionary"),
        ("", "valid dictionary"),
        ("a: &x 1\nb: *x\n", "aliases"),
        ("a: 1\na: 2\n", "occurs twice (line 2)"),
        ("a: !!bool x\n", "tags cannot be used"),
        ("a: !!int ''\n", "tags cannot be used"),
        ("a: !!timestamp x\n", "tags cannot be used"),
        ("a: !!binary eA==\n", "tags cannot be used"),
        ("a: " + "1:" * 100_000 + "1\n", "a number has at most"),
        ("!!python/object/apply:os.system ['true']\n", "is not YAML"),
        ("x: " + "[" * 5_000 + "]" * 5_000, "nested deeper"),
        ("x" * 300_000, "more than"),
    ],
    ids=lambda value: value[:20],
)
def test_mistakes_in_playbooks_are_named_with_the_file(tmp_path: Path, text: str, says: str) -> None:
    found = problems(write(whole(tmp_path), playbooks__find_yaml=text))
    assert any(says in problem for problem in found), found
    assert any("find.yaml" in problem for problem in found)


def test_playbooks_that_are_not_there(tmp_path: Path) -> None:
    assert "no 'gone'" in problems(write(tmp_path, handrail_toml='[playbooks]\npaths = ["gone"]\n'))[0]


def test_yaml_is_plain_data() -> None:
    assert read_yaml("a: 2026-01-31\nb: [1, 2.5, true, null, 'x']\n") == {
        "a": "2026-01-31",
        "b": [1, 2.5, True, None, "x"],
    }
    for text in ("a: 1\n? [b]\n: 2\n", "\x00", "a: [", "{1: &a 2, 3: *a}"):
        with pytest.raises(BadYaml):
            read_yaml(text)


def test_the_playbook_of_the_documentation_reads(tmp_path: Path) -> None:
    text = """
    name: find
    title: Find an item
    phrases: ["find {item}", "look for {item} of {who}"]
    slots: {item: {type: integer}, who: {type: choice, choices: [us, them], default: us}}
    limits: {max_actions: 50}
    steps:
      - {id: item, tool: get_item, with: {item: "{item}"}, timeout_s: 5, max_attempts: 3}
      - id: choice
        with: {n: $item.item}
        choose:
          - {when: "input.n > 30", tool: get_item, with: {item: $input.n}}
          - {tool: get_item, with: {item: 1}}
    """
    project = load(write(whole(tmp_path), playbooks__find_yaml=text))
    found = playbook.match("Look for 5 of them", project.playbooks, {})
    assert isinstance(found, playbook.Match)
    assert found.slots == {"item": 5, "who": "them"}


RULES = 'permit (principal, action in Action::"at_most_execute", resource);'
PEOPLE = '[users.ada]\nroles = ["support"]\n'


def test_the_rules_and_people_of_a_project(tmp_path: Path) -> None:
    project = load(write(whole(tmp_path), policy__a_cedar=RULES, policy__people_toml=PEOPLE), rules=True)
    assert not project.policy_files.built_in
    assert [rule.where for rule in project.policy.rules] == ["policy/a.cedar, line 1"]
    assert project.policy.people["ada"].roles == {"support"}
    assert list(project.policy.contracts) == ["get_item"]


def test_without_a_folder_the_built_in_policy_holds(tmp_path: Path) -> None:
    project = load(write(tmp_path, handrail_toml=""), rules=True)
    assert project.policy_files.built_in
    assert [rule.id for rule in project.policy.rules][:2] == ["everybody", "owners"]
    assert project.policy.people == {}


def test_rules_are_parsed_when_somebody_asks(tmp_path: Path) -> None:
    project = load(write(whole(tmp_path), policy__a_cedar="permit (principal);"))
    with pytest.raises(ProjectError, match=r"policy/a\.cedar, line 1: the rule that begins here"):
        _ = project.policy
    with pytest.raises(ProjectError, match=r"policy/a\.cedar, line 1"):
        load(tmp_path, rules=True)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"policy__people_toml": PEOPLE}, "policy/: there is no *.cedar file in it"),
        ({"policy__a_cedar": "x" * 300_000}, "policy/a.cedar cannot be read: it has more than"),
        ({"policy__a_cedar": RULES, "policy__people_toml": "[users"}, "policy/people.toml is not TOML"),
        (
            {"policy__a_cedar": RULES, "policy__people_toml": PEOPLE.replace("roles", "role")},
            "policy/people.toml: 'role' is not a key of users.ada; did you mean 'roles'?",
        ),
        (
            {"policy__a_cedar": RULES, "policy__people_toml": "[users.ada]\nroles = 'support'"},
            "policy/people.toml: users.ada.roles: ",
        ),
    ],
)
def test_mistakes_in_the_files_of_a_policy(tmp_path: Path, files: dict[str, str], says: str) -> None:
    found = problems(write(whole(tmp_path), **files))
    assert len(found) == 1
    assert says in found[0]


def test_a_policy_that_is_a_file(tmp_path: Path) -> None:
    (whole(tmp_path) / "policy").write_text("")
    assert "policy is a file" in problems(tmp_path)[0]


def test_importing_is_cheap() -> None:
    heavy = ["yaml", "jsonschema", "cel", "cedarpy", "rich", "prompt_toolkit", "ray", "grpc", "nats"]
    code = f"import sys, handrail.project; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_what_proposes_is_loaded_and_opens_the_route(tmp_path: Path) -> None:
    granting = PLAYBOOK.format(name="find").replace(
        '    tool: get_item\n    with: {item: "{item}"}',
        '    with: {item: "{item}"}\n    grants: [{tool: get_item, with: {item: $input.item}}]',
    )
    assert "grants" in granting
    directory = write(
        tmp_path,
        handrail_toml='[toolboxes.shop]\nmodules = ["tools"]\n[minds]\nproposer = "mind:propose"\n',
        tools_py=TOOLS,
        shelf_py="WHERE = 1\n",
        mind_py="def propose(inputs, grants):\n    return {'grant': 0}\n",
        playbooks__find_yaml=granting,
    )
    project = load(directory)
    assert project.proposer is not None
    assert project.proposer({}, []) == {"grant": 0}
    assert project.proposer_sha256 == sha256((directory / "mind.py").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("proposer", "problem"),
    [
        ("mind:propse", "mind has no function 'propse'; did you mean 'propose'?"),
        ("mnd:propose", "the module 'mnd' cannot be imported"),
        ("propose", "'propose' is not a function of a module, like minds:propose"),
    ],
)
def test_what_proposes_must_be_there(tmp_path: Path, proposer: str, problem: str) -> None:
    toml = f'[toolboxes.shop]\nmodules = ["tools"]\n[minds]\nproposer = "{proposer}"\n'
    directory = write(
        tmp_path,
        handrail_toml=toml,
        tools_py=TOOLS,
        shelf_py="WHERE = 1\n",
        mind_py="def propose():\n    ...\n",
    )
    assert any(problem in found for found in problems(directory))
