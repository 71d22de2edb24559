from wmtoolkit.benchmarks.llada2_speed import llada2_speed


def test_every_comparison_is_measured_against_its_first_variant():
    result = llada2_speed(tokens=64, length=32, rounds=1, threads=1)
    rows = result["rows"]
    assert {row["comparison"] for row in rows} >= {"experts", "attention", "batch", "decoding"}
    firsts = {}
    for row in rows:
        assert row["tokens_per_second"] > 0
        first = firsts.setdefault((row["comparison"], row["use"]), row)
        assert row["ratio"] == row["tokens_per_second"] / first["tokens_per_second"]
    assert len(result["text"].splitlines()) == len(rows) + 1
