"""The page about networks: its code runs, its results and errors are what it says, its operators are those there are."""

import ast
import re
from pathlib import Path

import pytest

pytest.importorskip("torch")

from cgru.engines.host.program.families import LOWER
from cgru.model import nodes
from cgru.model.nodes import OPERATORS

PAGE = Path(__file__).parents[2] / "docs" / "networks.md"

if not PAGE.is_file():
    pytest.skip("the documentation is not beside these tests", allow_module_level=True)

FAMILIES = {
    "products": nodes.dense,
    "elements": nodes.elementwise,
    "norms": nodes.norm,
    "convolutions and pooling": nodes.convolution,
    "movement": nodes.movement,
    "reductions": nodes.reduce,
    "recurrent layers": nodes.recurrent,
    "a cgru layer": nodes.stack,
}


def operators():
    """The table of operators as the code has it."""
    rows = ["| family | operators |", "| --- | --- |"]
    for title, family in FAMILIES.items():
        rows.append(f"| {title} | {', '.join(name for name in family.OPERATORS if name in LOWER)} |")
    folded = ", ".join(name for name in OPERATORS if name not in LOWER)
    return "\n".join([*rows, f"| known when a network is made, and then gone | {folded} |"])


def test_the_table_of_operators_is_the_codes():
    assert {name for family in FAMILIES.values() for name in family.OPERATORS} == OPERATORS.keys() >= LOWER.keys()
    (printed,) = re.findall(r"<!-- operators -->\n(.*?)\n<!-- end of operators -->", PAGE.read_text(), re.DOTALL)
    assert printed == operators(), f"{PAGE.name}: expected\n{operators()}"


def run(code, space):
    """Run a block statement by statement; how many of its lines said what they give, and gave it."""
    said = 0
    for statement in ast.parse(code).body:
        _, arrow, expected = code.splitlines()[statement.end_lineno - 1].partition("  # -> ")
        if not arrow:
            exec(compile(ast.Module([statement], []), PAGE.name, "exec"), space)
            continue
        assert isinstance(statement, ast.Expr)
        result = eval(compile(ast.Expression(statement.value), PAGE.name, "eval"), space)
        assert repr(result) == expected
        said += 1
    return said


def test_the_code_runs_and_gives_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, space, results, errors = PAGE.read_text(), {}, 0, []
    pattern = r"^```python\n(.*?)^```\n(?:\n```text\n(\w+Error: .*?)\n```)?"
    blocks = re.findall(pattern, text, re.DOTALL | re.MULTILINE)
    for code, error in blocks:
        if error:
            *before, last = code.splitlines(keepends=True)
            results += run("".join(before), space)
            with pytest.raises((ValueError, TypeError)) as raised:
                run(last, space)
            assert f"{raised.typename}: {raised.value}" == error
            errors.append(error)
        else:
            results += run(code, space)
    assert len(blocks) == text.count("```python")
    assert (results, len(errors)) == (text.count("  # -> "), 3)


def test_lines_of_tables_and_code_name_what_there_is():
    """Paths named in the page exist, and so do the attributes of cgru.Network that it speaks of."""
    import cgru

    text = PAGE.read_text()
    for path in re.findall(r"`((?:cgru|tests|docs)/[\w./]+)`", text):
        assert (PAGE.parents[1] / path).exists(), path
    for name in re.findall(r"\bNetwork\.(\w+)", text):
        assert hasattr(cgru.Network, name), name
    for name in re.findall(r"\bnodes\.([A-Z]\w+)", text):
        assert hasattr(cgru.nodes, name), name


def test_what_is_missing_is_listed_as_the_page_says(tmp_path, monkeypatch):
    import onnx
    from onnx import TensorProto, helper

    import cgru

    made = [
        helper.make_node("Hardmax", ["x"], ["a"], name="hard"),
        helper.make_node("LSTM", ["a", "w", "w"], ["y"], name="lstm"),
    ]
    x, w = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["T", 1, 4]) for name in "xw")
    monkeypatch.chdir(tmp_path)
    graph = helper.make_graph(made, "g", [x, w], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "model.onnx")
    with pytest.raises(cgru.FormatError) as raised:
        cgru.Network.load("model.onnx")
    assert f"```text\nFormatError: {raised.value}\n```" in PAGE.read_text()
