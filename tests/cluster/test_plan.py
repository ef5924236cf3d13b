# SPDX-License-Identifier: Apache-2.0
"""caravan plan: which machines would hold what, and how fast it would be. No machine is needed."""
import html.parser
import json
import re
import struct
import xml.etree.ElementTree

from cluster import text_of

NUMBER = r"(\d+(?:\.\d+)?)"
LAST = re.compile(rf"predicted: {NUMBER} tokens/s prefill, {NUMBER} tokens/s decode; "
                  r"bottleneck: \S.*")

FIVE = """\
machines:
  - {name: gaming, memory_gb: 64, read_gb_s: 60, gpu: {memory_gb: 12, read_gb_s: 360}}
  - {name: mini, count: 3, memory_gb: 96, read_gb_s: 75, tops_int8: 2.5}
  - {name: old, memory_gb: 32}
link: {rtt_ms: 0.3, mbit_s: 1000}
links:
  - {between: [gaming, mini], rtt_ms: 0.1, mbit_s: 10000}
"""
PAIR = "machines: [{name: a, memory_gb: 128}, {name: b, memory_gb: 128}]\n"
SMALL = "machines: [{name: a, memory_gb: 16}, {name: b, memory_gb: 16}]\n"


def cluster_file(case, text, name="cluster.yaml"):
    path = case.dir / name
    path.write_text(text)
    return path


def plan(case, *args, cluster=FIVE):
    """The lines of a plan that is found."""
    lines = text_of(case.succeed("plan", *args, "--cluster", cluster_file(case, cluster)))
    return lines.splitlines()


def speeds(lines):
    found = LAST.fullmatch(lines[-1])
    assert found, f"the last line is {lines[-1]!r}"
    return float(found.group(1)), float(found.group(2))


def table(lines, title):
    """The rows below the line that has these titles: cells by title. Each cell must end, or begin,
    where its title does: columns line up."""
    at = next(i for i, line in enumerate(lines) if re.split(r"  +", line.strip()) == title)
    spans = [m.span() for m in re.finditer(r"\S+(?: \S+)*", lines[at])]
    rows = []
    for line in lines[at + 1:]:
        if not line.strip():
            break
        cells = list(re.finditer(r"\S+(?: \S+)*", line))
        row = dict.fromkeys(title, "")
        for cell in cells:
            if cell.end() < spans[0][0]:
                row[""] = cell.group()
                continue
            fits = [i for i, (start, end) in enumerate(spans)
                    if cell.start() == start or cell.end() == end]
            assert fits, f"{cell.group()!r} is in no column of {lines[at]!r}: {line!r}"
            row[title[fits[0]]] = cell.group()
        rows.append(row)
    return rows


PLACEMENT = ["machine", "weights GB", "KV GB", "scratch GB", "of GB", "full", "holds"]


# ---- plans ----

def test_known_model(case):
    lines = plan(case, "maverick:Q4_K_M")
    prefill, decode = speeds(lines)
    assert prefill > decode > 0
    assert "400.7 billion parameters, a file of 242.75 GB" in lines[0], lines[0]
    rows = table(lines, PLACEMENT)
    held = sum(float(row["weights GB"]) for row in rows)
    assert 247 < held < 250, f"{held} GB are held"
    for row in rows:
        used = sum(float(row[key]) for key in PLACEMENT[1:4])
        assert used <= float(row["of GB"]), row
    assert any("embedding" in row["holds"] for row in rows), rows
    assert any("head" in row["holds"] for row in rows), rows


def test_drawing_and_budget(case):
    lines = plan(case, "llama-405b:Q2_K")
    assert lines.count("coordinator") == 2, "the drawing starts and ends there"
    rows = table(lines, PLACEMENT)
    for row in rows:
        assert any(row["machine"] + "," in line and "#" in line for line in lines), row
    budget = table(lines, ["compute ms", "memory ms", "wire ms", "wait ms", "all ms", "busy"])
    assert len(budget) == len(rows) + 2
    total = float(budget[-1]["all ms"])
    assert abs(sum(float(row["all ms"]) for row in budget[:-1]) - total) < 0.01 * total
    assert abs(1000 / total / speeds(lines)[1] - 1) < 0.01


def test_estimates_are_named(case):
    words = "\n".join(plan(case, "gpt-oss-120b:MXFP4"))
    assert "estimated, since the cluster file does not say it:" in words
    rows = table(words.splitlines(), ["key", "value", "of"])
    assert [row["of"] for row in rows if row["key"] == "read_gb_s"] == ["old"]
    assert any(row["key"] == "tops_int8" and "old" in row["of"] for row in rows)
    assert not any(row["key"].startswith("link") for row in rows)
    rows = table(plan(case, "gpt-oss-120b:MXFP4", cluster="machines: [{name: a, memory_gb: 99}]"),
                 ["key", "value", "of"])
    assert any(row["key"] == "link rtt_ms" for row in rows)


def test_same_question_same_answer(case):
    args = ("qwen3-235b:Q4_K_M", "--simulate", "--requests", "20", "--rate", "0.01", "--seed", "7")
    assert plan(case, *args, cluster=PAIR) == plan(case, *args, cluster=PAIR)


def test_aims(case):
    for aim in ("latency", "throughput", "balanced"):
        lines = plan(case, "scout:Q4_K_M", "--for", aim, cluster=PAIR)
        speeds(lines)
        assert f"for {aim}" in lines[1]


def test_forced_split(case):
    lines = plan(case, "maverick:Q4_K_M", "--split", "layers")
    assert not any("expert" in row["holds"] for row in table(lines, PLACEMENT))
    lines = plan(case, "maverick:Q4_K_M", "--split", "experts", "--expert-slices", "2")
    assert any("(2/2)" in row["holds"] for row in table(lines, PLACEMENT))


def test_longer_context_takes_more(case):
    def kv(*args):
        lines = plan(case, "mixtral-8x22b:Q4_K_M", *args, cluster=PAIR)
        return sum(float(row["KV GB"]) for row in table(lines, PLACEMENT))
    assert kv("--ctx", "4096") < kv("--ctx", "16384")
    assert kv("--ctx", "16384", "--kv", "q8_0") < 0.3 * kv("--ctx", "16384")
    assert kv("--parallel", "1") < kv("--parallel", "8")


def test_simulation(case):
    words = "\n".join(plan(case, "scout:Q4_K_M", "--simulate", "--requests", "20", "--clients",
                           "3", cluster=PAIR))
    assert "simulated: 20 requests of 512 and 256 tokens, 3 always under way" in words
    rows = table(words.splitlines(), ["mean", "p50", "p90", "p99", "longest"])
    assert len(rows) == 3
    assert "requests/s" in words


def test_sizes_only(case):
    lines = plan(case, "glm-5.2:IQ1_S")
    assert any(line.startswith("sizes only: this architecture cannot be run yet") for line in lines)
    speeds(lines)


# ---- what may be planned ----

def test_file_and_shape_agree(case):
    """A file of a preset and the preset without a file are the same plan but for the name."""
    path = case.world.model("qwen3moe-3b", "Q4_K_M", sparse=True)
    file, shape = plan(case, path, cluster=SMALL), plan(case, "qwen3moe-3b:Q4_K_M", cluster=SMALL)
    assert file[0].split(": ", 1)[1] == shape[0].split(": ", 1)[1]
    assert file[1:] == shape[1:]


def test_config(case):
    path = case.dir / "config.json"
    path.write_text(json.dumps({
        "model_type": "qwen3_moe", "num_hidden_layers": 94, "hidden_size": 4096,
        "num_attention_heads": 64, "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 151936,
        "max_position_embeddings": 40960, "intermediate_size": 12288, "num_experts": 128,
        "num_experts_per_tok": 8, "moe_intermediate_size": 1536, "rms_norm_eps": 1e-06}))
    assert plan(case, f"{path}:Q4_K_M")[1:] == plan(case, "qwen3-235b:Q4_K_M")[1:]


def test_shared_configs(case):
    """Every configuration that is at hand can be planned on a large cluster."""
    large = "machines: [{name: big, count: 2, memory_gb: 1200}]\n"
    for path in sorted(case.world.shared_file("configs").glob("*.json")):
        speeds(plan(case, f"{path}:Q4_K_M", cluster=large))


def test_list(case):
    lines = text_of(case.succeed("plan", "--list")).splitlines()
    rows = table(lines, re.split(r"  +", lines[0].strip()))
    names = [row["model"] for row in rows]
    for name in ("maverick", "scout", "llama-405b", "deepseek-v3", "deepseek-v4-flash",
                 "qwen3-235b", "qwen3.5-397b", "gpt-oss-120b", "kimi-k2.5", "glm-5.2"):
        assert name in names, names
    maverick = rows[names.index("maverick")]
    assert maverick["usually"] == "Q4_K_M" and maverick["usually GB"] == "242.8", maverick
    assert maverick["GB a token"] == "9.96", maverick


def test_which_models_fit(case):
    lines = text_of(case.succeed("plan", "--cluster", cluster_file(case, SMALL))).splitlines()
    rows = table(lines, re.split(r"  +", lines[0].strip()))
    by_name = {row["model"]: row for row in rows}
    assert by_name["gemma-4-26b"]["quantisation"] != "-"
    assert float(by_name["gemma-4-26b"]["decode tokens/s"]) > 0
    assert by_name["maverick"]["quantisation"] == "-"
    assert "does not fit" in by_name["maverick"]["bottleneck"]
    words = text_of(case.succeed("plan", "--split", "experts", "--cluster",
                                 cluster_file(case, "machines: [{name: a, memory_gb: 999}]")))
    assert re.search(r"llama-405b .* cannot be split as asked for", words), words


def test_standard_input(case):
    path = cluster_file(case, FIVE)
    with open(path, "rb") as file:
        lines = text_of(case.succeed("plan", "scout:Q4_K_M", "--cluster", "-", stdin=file))
    assert lines.splitlines() == plan(case, "scout:Q4_K_M")


def test_json(case):
    found = json.loads(case.succeed("plan", "maverick:Q4_K_M", "--json", "--cluster",
                                    cluster_file(case, FIVE)))
    prefill, decode = speeds(plan(case, "maverick:Q4_K_M"))
    one = found["predicted"]["one"]
    assert abs(one["prefill_tokens_s"] / prefill - 1) < 0.01
    assert abs(one["decode_tokens_s"] / decode - 1) < 0.01
    assert found["model"]["token_bytes"] > 9.9e9 and found["model"]["runs"]
    stages = [stage for worker in found["workers"] for stage in worker["stages"]]
    assert min(s["layer_first"] for s in stages) == 0
    assert max(s["layer_end"] for s in stages) == 48
    assert sum(w["weight_bytes"] for w in found["workers"]) >= found["model"]["memory_bytes"]


# ---- the page ----

class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen, self.words, self.links = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.handle_startendtag(tag, attrs)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.words.append(data)


def test_html(case):
    path = case.dir / "plan.html"
    strange = FIVE.replace("name: old", 'name: "old<b>&\\"tür\\""')
    lines = plan(case, "maverick:Q4_K_M", "--split", "experts", "--html", path, cluster=strange)
    prefill, decode = LAST.fullmatch(lines[-1]).groups()
    data = path.read_text(encoding="utf-8")
    xml.etree.ElementTree.fromstring(data)
    page = Page()
    page.feed(data)
    page.close()
    assert not page.open and page.seen.count("svg") == 2 and not page.links, page.open
    assert "http" not in data.replace("http://www.w3.org/2000/svg", ""), "it needs another file"
    assert "prefers-color-scheme" in data
    for word in (prefill, decode, 'old<b>&"tür"', "mini-1"):
        assert any(word in text for text in page.words), word


def test_html_elsewhere(case):
    cluster = cluster_file(case, FIVE)
    case.caravan("plan", "scout:Q4_K_M", "--cluster", cluster, "--html",
                 case.dir / "none" / "x.html").fails_with("none/x.html", "No such file")


# ---- what cannot be planned ----

def check_refused(case, args, *words, cluster=FIVE):
    result = case.caravan("plan", *args, "--cluster", cluster_file(case, cluster))
    result.fails_with(*words)
    assert "predicted" not in text_of(result.out)


def test_too_small(case):
    """What is missing, where, and the largest quantisation that would fit."""
    check_refused(case, ["maverick:Q8_0"], "Q6_K", "missing")
    check_refused(case, ["kimi-k3:Q4_K_M"], "missing")


def test_bad_models(case):
    check_refused(case, ["maverick"], "maverick:Q4_K_M")
    check_refused(case, ["maverick:Q9"], "Q9", "Q4_K_M")
    check_refused(case, ["nobody:Q4_K_M"], "nobody", "maverick")
    check_refused(case, [case.dir / "none.gguf"], "none.gguf", "--list")
    broken = case.dir / "broken.gguf"
    broken.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 1))
    check_refused(case, [broken], "broken.gguf", "truncated")
    config = case.dir / "config.json"
    config.write_text('{"model_type": "llama",\n "num_hidden_layers": }')
    check_refused(case, [f"{config}:Q4_K"], "config.json:2:")


def test_bad_clusters(case):
    for text, words in (
            ("machines:\n- {name: a, memory_gb: 64, ram: 5}\n", (":2:28:", "ram", "memory_gb")),
            ("machines:\n- {name: a, memory_gb: -64}\n", (":2:24:", "-64", "from")),
            ("machines:\n- name: a\n", (":2:3:", "memory_gb")),
            ("machines: [{name: a, memory_gb: 1}, {name: a, memory_gb: 1}]", (":1:44:", "named a")),
            ("machines: [{name: a, memory_gb: 1}, {name: b, memory_gb: 1},\n"
             "           {name: c, memory_gb: 1}]\n"
             "links:\n- {between: [a, b], rtt_ms: 1, mbit_s: 1}\n",
             (":4:1:", "from a to c is missing")),
            ("machines: [{name: a, memory_gb: 1}]\nlinks: [{between: [a, z], rtt_ms: 1}]\n",
             (":2:23:", "z")),
            ("machines: {", (":2:1:", "YAML")),
            ("", ("empty",))):
        check_refused(case, ["scout:Q4_K_M"], "cluster.yaml:", *words, cluster=text)
    case.caravan("plan", "scout:Q4_K_M", "--cluster", case.dir / "none").fails_with("none")
    case.caravan("plan", "scout:Q4_K_M").fails_with("--cluster FILE")


def test_bad_requests(case):
    check_refused(case, ["scout:Q4_K_M", "--for", "speed"], "--for speed", "throughput")
    check_refused(case, ["scout:Q4_K_M", "--split", "rows"], "--split rows", "experts")
    check_refused(case, ["--json"], "maverick:Q4_K_M")
    check_refused(case, ["scout:Q4_K_M", "--json", "--simulate"], "--json")
    cluster = cluster_file(case, FIVE)
    for args in (("--ctx", "0"), ("--expert-slices", "9"), ("--parallel", "x")):
        case.caravan("plan", "scout:Q4_K_M", "--cluster", cluster, *args).fails_with(
            args[0], status=2, lines=2)
