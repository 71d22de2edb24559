"""Finished work is kept: across interrupts, cut-off lines and failures."""

import json

import pytest

from wmtoolkit.benchmarks import ledger as ledger_module
from wmtoolkit.benchmarks.ledger import Ledger, read_rows
from wmtoolkit.benchmarks.reporting.texts import origin_line
from wmtoolkit.errors import UserError


def test_work_is_done_once(tmp_path):
    calls = []

    def work(number):
        calls.append(number)
        return {"square": number**2}

    for _ in range(2):
        ledger = Ledger(tmp_path, "success")
        for number in range(3):
            ledger.do({"number": number}, lambda number=number: work(number))
    assert calls == [0, 1, 2]
    assert ledger.values({"number": 2}) == {"square": 4}
    assert ledger.holes({"number": number} for number in range(4)) == [{"unit": {"number": 3}, "error": "not run yet"}]
    assert [row["unit"]["number"] for row in read_rows(ledger.path)] == [0, 1, 2]


def test_an_interrupt_keeps_what_was_finished(tmp_path):
    ledger = Ledger(tmp_path, "success")
    ledger.do({"number": 0}, lambda: {"x": 1})

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ledger.do({"number": 1}, interrupted)
    again = Ledger(tmp_path, "success")
    assert again.done({"number": 0})
    assert not again.done({"number": 1})


def test_a_failure_is_named_and_tried_again(tmp_path):
    ledger = Ledger(tmp_path, "success")

    def broken():
        raise ValueError("broken\nwheel")

    ledger.do({"agent": "a"}, broken)
    assert ledger.holes([{"agent": "a"}]) == [{"unit": {"agent": "a"}, "error": "ValueError: broken wheel"}]
    again = Ledger(tmp_path, "success")
    assert again.error({"agent": "a"}) == "ValueError: broken wheel"
    again.do({"agent": "a"}, lambda: {"x": 2})
    assert Ledger(tmp_path, "success").values({"agent": "a"}) == {"x": 2}
    assert Ledger(tmp_path, "success").holes([{"agent": "a"}]) == []


def test_a_line_cut_off_by_a_crash_is_dropped(tmp_path):
    ledger = Ledger(tmp_path, "success")
    for number in range(2):
        ledger.do({"number": number}, lambda: {"x": 1})
    text = ledger.path.read_text()
    ledger.path.write_text(text[:-20])
    again = Ledger(tmp_path, "success")
    assert [again.done({"number": number}) for number in range(2)] == [True, False]
    again.do({"number": 1}, lambda: {"x": 5})
    assert Ledger(tmp_path, "success").values({"number": 1}) == {"x": 5}


def test_a_new_ledger_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ledger_module.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            Ledger(tmp_path, "success")
    assert not (tmp_path / "rows.jsonl").exists()
    Ledger(tmp_path, "success").write({"number": 0}, {"x": 1}, 1.0)
    assert Ledger(tmp_path, "success").done({"number": 0})


def test_where_rows_were_made_is_kept(tmp_path, monkeypatch):
    for number, machine in enumerate(("a laptop", "a cluster", "a cluster")):
        monkeypatch.setattr(ledger_module, "machine", lambda machine=machine: machine)
        Ledger(tmp_path, "success").write({"number": number}, {"x": 1}, 1.0)
    made = Ledger(tmp_path, "success").made([{"number": number} for number in range(3)])
    assert made["machines"] == ["a laptop", "a cluster"]
    document = {"made": made, "versions": {"machine": "a cluster"}, "git": made["commits"][0]}
    assert "some of them on a laptop" in origin_line(document)


def test_rows_of_another_kind_are_refused(tmp_path):
    Ledger(tmp_path, "success")
    with pytest.raises(UserError, match="rows of the suite 'success', not 'fidelity'"):
        Ledger(tmp_path, "fidelity")
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"schema": 99, "suite": "success"}) + "\n")
    with pytest.raises(UserError, match="schema 1"):
        Ledger(tmp_path, "success")
    path.write_text(json.dumps({"schema": 1, "suite": "success"}) + "\n{half\n{}\n")
    with pytest.raises(UserError, match="line 2, is damaged"):
        Ledger(tmp_path, "success")
