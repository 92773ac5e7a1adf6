"""What the documents refer to is there."""

import ast
import re

from tests.helpers.shared_data import ROOT

DOCUMENT = ROOT / "docs" / "reliability.md"


def test_every_promise_names_a_test_that_exists() -> None:
    promises = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if re.match(r"\| [A-Z`]", line)]
    assert len(promises) > 15
    for promise in promises:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", promise)
        assert named, promise
        for path, name in named:
            functions = [
                node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)
            ]
            assert name in functions, f"{path} has no {name}"


def test_its_commands_are_modules_and_scripts_that_exist() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    modules = re.findall(r"python -m ([\w.]+)", text)
    assert modules
    for module in modules:
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module
    assert all((ROOT / script).is_file() for script in re.findall(r"benchmarks/\w+\.py", text))


def test_links_between_pages_lead_somewhere_and_leave_no_page_out() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    linked = set()
    for page in pages:
        for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
            linked.add((page.parent / target).resolve())
    assert not [page.name for page in pages[1:] if page.resolve() not in linked]
