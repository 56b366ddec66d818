from __future__ import annotations

import copy
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from picual.errors import Problem, RecipeProblems
from picual.recipe.check import check, require
from picual.recipe.document import read_document
from picual.recipe.dump import to_yaml
from picual.recipe.load import Overrides, load

GOOD = """\
version: 1
model: models/tiny
target: {device: cpu, provider: CPUExecutionProvider}
data:
  tone: {files: tone.jsonl, template: "{phrase}\\n{Best Answer}", max_length: 64, holdout: 0.3}
passes:
  lora: {data: tone, rank: 8, training: {max_steps: 3, learning_rate: 1e-4}}
  merge-adapter: {}
  build-genai: {precision: int4}
metrics:
  accuracy: {data: tone, expect: "{Best Answer}"}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that ``GOOD`` fits to."""
    (tmp_path / "models/tiny").mkdir(parents=True)
    (tmp_path / "models/tiny/config.json").write_text("{}")
    rows = [{"phrase": f"phrase {index}", "Best Answer": "calm"} for index in range(4)]
    (tmp_path / "tone.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def problems_of(folder: Path, text: str, name: str = "recipe.yaml") -> list[Problem]:
    (folder / name).write_text(text)
    return check(load(folder / name))


def only_problem(folder: Path, old: str, new: str, *, goal: str = "") -> Problem:
    """Check ``GOOD`` with one mistake in it, which is to be the one problem found."""
    assert old in GOOD
    (problem,) = problems_of(folder, GOOD.replace(old, new) + goal)
    return problem


def test_a_good_recipe_has_no_problems(folder: Path) -> None:
    assert problems_of(folder, GOOD) == []
    require(load(folder / "recipe.yaml"))


@pytest.mark.parametrize(
    ("old", "new", "where", "what", "hint"),
    [
        (
            'expect: "{Best Answer}"',
            'expect: "{Best Answer}", labels: [calm, angry]',
            "line 11, metric `accuracy`",
            "no row of `tone` expects the label `angry`",
            "it can be `calm`",
        ),
        (
            'expect: "{Best Answer}"',
            'expect: "{Best Answer}", by: likelihood',
            "line 11, metric `accuracy`",
            "`by: likelihood` compares classes; the rows of `tone` expect 1 answers",
            "by: generation",
        ),
        ("target:", "tagret:", "line 3", "unknown key `tagret`", "did you mean `target`?"),
        ("device: cpu", "devise: cpu", "line 3", "unknown key `devise` in `target`", "did you mean `device`?"),
        ("holdout:", "houldout:", "line 5, data `tone`", "unknown key `houldout`", "did you mean `holdout`?"),
        (
            "  merge-adapter: {}",
            "  merge-adaptor: {}",
            "line 8, step 2 `merge-adaptor`",
            "unknown pass `merge-adaptor`",
            "did you mean `merge-adapter`?",
        ),
        (
            "  merge-adapter: {}",
            "  merge: {type: merge-adaptr}",
            "line 8, step 2 `merge`",
            "unknown pass `merge-adaptr`",
            "did you mean `merge-adapter`?",
        ),
        ("rank: 8", "rnk: 8", "line 7, step 1 `lora`", "unknown parameter `rnk`", "did you mean `rank`?"),
        (
            "rank: 8",
            "rank: sixteen",
            "line 7, step 1 `lora`",
            '`rank` is "sixteen"; it must be a whole number',
            "",
        ),
        (
            "lora: {data: tone, rank: 8",
            "lora:\n    {data: tone,\n    rank: 0",
            "line 9, step 1 `lora`",
            "`rank` is 0; it must be at least 1",
            "rank: 16",
        ),
        (
            "merge-adapter: {}",
            "merge-adapter: {dtype: float61}",
            "line 8, step 2 `merge-adapter`",
            '`dtype` is "float61"; it must be `keep`, `float32`, `float16` or `bfloat16`',
            "did you mean `float16`",
        ),
        (
            "accuracy:",
            "acuracy:",
            "line 11, metric `acuracy`",
            "unknown metric `acuracy`",
            "did you mean `accuracy`?",
        ),
        (
            'expect: "{Best Answer}"',
            "expects: x",
            "line 11, metric `accuracy`",
            "unknown parameter `expects`",
            "did you mean `expect`?",
        ),
        (
            "max_length: 64",
            'max_length: "64"',
            "line 5, data `tone`",
            '`max_length` is "64"; it must be a whole',
            "",
        ),
        ("max_length: 64", "max_length: 0", "line 5, data `tone`", "`max_length` is 0; it must be at least 1", ""),
        (
            "holdout: 0.3",
            "holdout: 1.0",
            "line 5, data `tone`",
            "`holdout` is 1.0; it must be at least 0 and less",
            "",
        ),
        (
            "files: tone.jsonl",
            "files: tones.jsonl",
            "line 5, data `tone`",
            "there is no data file `tones.jsonl`",
            "did you mean `tone.jsonl`?",
        ),
        ("files: tone.jsonl, ", "", "line 5, data `tone`", "it says neither `files` nor `name`", "`files:` takes"),
        ("files: tone.jsonl", "files: models", "line 5, data `tone`", "`models` is a folder, not a data file", ""),
        (
            "{phrase}\\n",
            "{phrase\\n",
            "line 5, data `tone`",
            "`template`: no `}` closes the brace at character 1",
            "a column is `{column}`",
        ),
        (
            "{phrase}\\n",
            "{phrse}\\n",
            "line 5, data `tone`",
            "the data has no column `phrse`",
            "did you mean `phrase`?",
        ),
        (
            'expect: "{Best Answer}"',
            'expect: "{Best Anser}"',
            "line 11, metric `accuracy`",
            "`expect`: the data has no column `Best Anser`",
            "did you mean `Best Answer`?",
        ),
        (
            'expect: "{Best Answer}"',
            'expect: "{phrase"',
            "line 11, metric `accuracy`",
            "`expect`: no `}` closes the brace",
            "a column",
        ),
        ("data: tone, expect", "expect", "line 11, metric `accuracy`", "`data` is missing", "`data: tone`"),
        ("lora: {data: tone, ", "lora: {", "line 7, step 1 `lora`", "`data` is missing", "`data: tone`"),
        (
            "accuracy: {data: tone,",
            "perplexity: {file: tones.jsonl}\n  accuracy: {data: tone,",
            "line 11, metric `perplexity`",
            "there is no file `tones.jsonl`",
            "did you mean `tone.jsonl`?",
        ),
        (
            "lora: {data: tone,",
            "lora: {data: tome,",
            "line 7, step 1 `lora`",
            "unknown data set `tome`",
            "did you mean `tone`?",
        ),
        (
            "accuracy: {data: tone,",
            "accuracy: {data: tome,",
            "line 11, metric `accuracy`",
            "unknown data set `tome`",
            "did you mean `tone`?",
        ),
        (
            "CPUExecutionProvider",
            "CPUExecutionProvder",
            "line 3",
            "unknown execution provider `CPUExecutionProvder`",
            "did you mean `CPUExecutionProvider`",
        ),
        (
            "max_steps: 3",
            "max_stesp: 3",
            "line 7, step 1 `lora`",
            "unknown training argument `max_stesp`",
            "did you mean `max_steps`",
        ),
        ("models/tiny", "models/tyni/x/y", "line 2", "there is no model at `models/tyni/x/y`", "`models/tiny`?"),
        ("models/tiny", "models", "line 2", "the model folder `models` has no `config.json`", "`models/tiny`?"),
        ("models/tiny", "models/tiny/config.json", "line 2", "is a file; a model is a folder", "`models/tiny`?"),
        ("models/tiny", "./absent", "line 2", "there is no model at `./absent`", "--model PATH"),
        ("models/tiny", "<model>", "line 2", "the model is still the placeholder `<model>`", "--model PATH"),
        ("models/tiny", "cache/<<device>>", "line 2", "the placeholder `<<device>>`", "--model PATH"),
        ("models/tiny", '"{{model}}"', "line 2", "the placeholder `{{model}}`", "--model PATH"),
        ("models/tiny", "MODEL_NAME", "line 2", "the placeholder `MODEL_NAME`", "--model PATH"),
        ("models/tiny", "Your Azure model", "line 2", "the placeholder `Your Azure model`", "--model PATH"),
        ("files: tone.jsonl", "files: <data>", "line 5, data `tone`", "the placeholder `<data>`", "replace"),
        ("version: 1", "version: 2", "line 1", "version 2 is not known", "write `version: 1`"),
        ("version: 1\n", "", "line 1", "`version` is missing", "begin the recipe with `version: 1`"),
        ("model: models/tiny\n", "", "line 1", "`model` is missing", "owner/name"),
        ("target:", "host: cloud\ntarget:", "line 3", "unknown host `cloud`", "`local`"),
        (
            "metrics:",
            "search: {minimise: size}\nmetrics:",
            "line 10",
            "unknown key `minimise` in `search`",
            "`minimize`",
        ),
        (
            "metrics:",
            "search: {minimize: sise}\nmetrics:",
            "line 10",
            "there is no metric `sise`",
            "`size`",
        ),
        (
            "metrics:",
            "search: {minimize: size.megabytes}\nmetrics:",
            "line 10",
            "metric `size` has no number `megabytes`",
            "size_mb",
        ),
        (
            "metrics:",
            'search: {subject_to: {size: "<= small"}}\nmetrics:',
            "line 10",
            "`size`: `<= small` is no bound",
            "<= 110MB",
        ),
        (
            "metrics:",
            'search: {subject_to: {size: ["<= 10MB", ">= 20MB"]}}\nmetrics:',
            "line 10",
            "no value of `size.size_mb` is both `>= 20MB` and `<= 10MB`",
            "move one of the two limits",
        ),
        (
            "metrics:",
            'search: {subject_to: {divergence: "<= 0.5 * baseline"}}\nmetrics:',
            "line 10",
            "`divergence` has no value for `baseline`",
            "give a number",
        ),
        (
            "metrics:",
            "search: {minimize: size, sampler: hyperband}\nmetrics:",
            "line 10",
            "`sampler` is `hyperband`; it must be one of auto",
            "grid",
        ),
        (
            "rank: 8",
            "rank: {search: []}",
            "line 7, step 1 `lora`",
            "`rank` has an empty search domain",
            "at least one value",
        ),
        (
            "rank: 8",
            "rank: {search: {low: 8, high: 4}}",
            "line 7, step 1 `lora`",
            "`rank` is to lie between 8 and 4",
            "{search: [32, 64]}",
        ),
        (
            "rank: 8",
            "rank: {search: [8, many]}",
            "line 7, step 1 `lora`",
            '`rank` is "many"; it must be a whole number',
            "",
        ),
        (
            "  build-genai:",
            "  lora: {}\n  build-genai:",
            "line 9",
            "`lora` stands here a second time (first on line 7)",
            "remove or rename one `lora`",
        ),
    ],
)
def test_one_mistake_is_one_problem_with_its_line_and_the_nearest_name(
    folder: Path, old: str, new: str, where: str, what: str, hint: str
) -> None:
    goal = "search: {minimize: size}\n" if "{search:" in new else ""  # a domain needs one
    problem = only_problem(folder, old, new, goal=goal)

    assert problem.where == where
    assert what in problem.what
    assert hint in problem.hint


def test_a_training_argument_has_its_own_line(folder: Path) -> None:
    training = "training:\n      max_steps: 3\n      learning_rte: 1e-4\n      bf16: maybe\n"
    text = GOOD.replace("lora: {data: tone, rank: 8, training: {max_steps: 3, learning_rate: 1e-4}}\n", "LORA")
    text = text.replace("LORA", f"lora:\n    data: tone\n    {training}")

    first, second = problems_of(folder, text)

    assert (first.where, first.hint) == ("line 11, step 1 `lora`", "did you mean `learning_rate`?")
    assert second.where == "line 12, step 1 `lora`"
    assert "`bf16` is 'maybe'; it must be true or false" in second.what


@pytest.mark.parametrize("chat", [[], ["hello"], "hello", [{"role": "user"}], None])
def test_a_chat_that_is_none_is_named(folder: Path, chat: object) -> None:
    (folder / "tone.jsonl").write_text(json.dumps({"chat": chat}))
    text = GOOD.replace('template: "{phrase}\\n{Best Answer}"', "chat: chat").replace(
        ', expect: "{Best Answer}"', ""
    )

    problems = problems_of(folder, text.replace(", holdout: 0.3", ""))

    assert any("no last message in `chat`" in problem.what or "`chat`" in problem.what for problem in problems)


def test_an_empty_data_file_is_named(folder: Path) -> None:
    (folder / "tone.jsonl").write_text("")

    (problem,) = problems_of(folder, GOOD)
    assert (problem.where, problem.what) == ("line 5, data `tone`", "the data file `tone.jsonl` is empty")


def test_a_damaged_data_file_is_named_with_its_row(folder: Path) -> None:
    (folder / "tone.jsonl").write_text('{"phrase": "a", "Best Answer": "b"}\n{"phrase": "a", "Best')

    (problem,) = problems_of(folder, GOOD)
    assert problem.where == "line 5, data `tone`"
    assert "line 2 of `tone.jsonl` is not JSON" in problem.what


ORDERS = [
    (
        ["merge-adapter", "lora", "build-genai"],
        "line 4, step 1 `merge-adapter`",
        "`merge-adapter` cannot come first: it takes a LoRA adapter; the input model is a Hugging Face model",
        "move `merge-adapter` after `lora`",
    ),
    (
        ["lora", "rtn", "merge-adapter"],
        "line 5, step 2 `rtn`",
        "`rtn` cannot follow step 1 `lora`: `rtn` takes a Hugging Face model; `lora` makes a LoRA adapter",
        "move `rtn` after `merge-adapter`",
    ),
    (
        ["lora", "build-genai", "merge-adapter"],
        "line 6, step 3 `merge-adapter`",
        "`merge-adapter` cannot follow step 2 `build-genai`:",
        "move `merge-adapter` before `build-genai`",
    ),
    (
        ["build-genai", "lora"],
        "line 5, step 2 `lora`",
        "`lora` cannot follow step 1 `build-genai`:",
        "",
    ),
    (
        ["merge-adapter"],
        "line 4, step 1 `merge-adapter`",
        "cannot come first",
        "put `lora` before `merge-adapter`",
    ),
]


@pytest.mark.parametrize(("steps", "where", "what", "hint"), ORDERS)
def test_an_impossible_order_names_the_step_and_an_order_that_works(
    folder: Path, steps: list[str], where: str, what: str, hint: str
) -> None:
    passes = "".join(f"  {name}:\n" for name in steps)
    text = (
        f"version: 1\nmodel: models/tiny\npasses:\n{passes}data: {{tone: {{files: tone.jsonl, text: phrase}}}}\n"
    )

    problems = problems_of(folder, text.replace("lora:", "lora: {data: tone}"))

    assert problems[0].where == where
    assert what in problems[0].what
    assert hint in problems[0].hint


def test_a_merge_may_come_first_when_the_model_has_an_adapter(folder: Path) -> None:
    (folder / "adapter").mkdir()
    (folder / "adapter/adapter_config.json").write_text("{}")

    text = "version: 1\nmodel: {path: models/tiny, adapter: adapter}\npasses: {merge-adapter: , build-genai: }\n"
    assert problems_of(folder, text) == []


@pytest.mark.parametrize(
    ("mark", "step", "came"),
    [
        ("genai_config.json", "build-genai", "an ONNX Runtime GenAI model"),
        ("adapter_config.json", "rtn", "a LoRA"),
    ],
)
def test_a_folder_on_this_machine_is_what_its_files_say(folder: Path, mark: str, step: str, came: str) -> None:
    (folder / "models/tiny" / mark).write_text("{}")

    (problem,) = problems_of(folder, f"version: 1\nmodel: models/tiny\npasses: {{{step}: }}\n")
    assert f"the input model is {came}" in problem.what


def test_placeholders_count_only_where_they_are_used(folder: Path) -> None:
    hosts = 'host: cloud\nhosts: {cloud: {type: azureml, compute: "Your Azure compute"}, other: {type: docker}}\n'
    (folder / "recipe.yaml").write_text(GOOD + hosts)

    (problem,) = check(load(folder / "recipe.yaml"))
    assert problem.where == "line 13"
    assert "`Your Azure compute`" in problem.what
    assert check(load(folder / "recipe.yaml", overrides=Overrides(host="local"))) == []


def test_all_mistakes_of_one_file_are_shown_together_in_the_order_of_its_lines(folder: Path) -> None:
    text = (
        GOOD.replace("target:", "tagret:")
        .replace("models/tiny", "<model>")
        .replace("files: tone.jsonl", "files: tones.jsonl")
        .replace("rank: 8", "rnk: 8")
        .replace("  merge-adapter: {}\n", "  merge-adaptor: {}\n")
        .replace("accuracy:", "acuracy:")
    )
    (folder / "recipe.yaml").write_text(text)

    with pytest.raises(RecipeProblems, match=r"recipe\.yaml has 6 problems") as caught:
        require(load(folder / "recipe.yaml"))

    assert [problem.where for problem in caught.value.problems] == [
        "line 2",
        "line 3",
        "line 5, data `tone`",
        "line 7, step 1 `lora`",
        "line 8, step 2 `merge-adaptor`",
        "line 11, metric `acuracy`",
    ]
    assert caught.value.exit_code == 2


def test_json_recipes_have_lines_too(folder: Path) -> None:
    text = '{\n"version": 1, // native\n"model": "models/tiny",\n"passes": {\n"merge-adaptor": {},\n}}'

    (problem,) = problems_of(folder, text, "recipe.json")
    assert (problem.where, problem.what) == ("line 5, step 1 `merge-adaptor`", "unknown pass `merge-adaptor`")


def test_a_recipe_from_python_names_paths_instead_of_lines(folder: Path) -> None:
    recipe = load({"version": 1, "model": "models/tiny", "sed": 1, "passes": {"lora": {"rnk": 1}}}, folder=folder)

    assert [problem.where for problem in check(recipe)][:2] == ["sed", "step 1 `lora`"]


def test_checking_takes_less_than_two_seconds_and_no_torch(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(GOOD.replace("rank: 8", "rnk: 8"))
    script = """
        import sys, time
        started = time.perf_counter()
        from pathlib import Path
        from picual.recipe.check import check
        from picual.recipe.load import load
        problems = check(load(Path("recipe.yaml")))
        heavy = {"torch", "transformers", "peft", "datasets", "onnx", "onnxruntime"} & set(sys.modules)
        print(len(problems), time.perf_counter() - started, sorted(heavy))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=folder, capture_output=True, text=True, check=True
    )

    count, seconds, heavy = done.stdout.split(maxsplit=2)
    assert count == "1"
    assert float(seconds) < 2
    assert heavy.strip() == "[]"


ODD = [None, True, 0, -1, 1.5, "", "word", "<x>", [], ["a", 1], [[]], {}, {"a": {"b": 1}}, {"search": [1]}]


def paths_in(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    below = [one for key in value for one in paths_in(value[key], (*path, key))] if isinstance(value, dict) else []
    return ([path] if path else []) + below


def test_whatever_stands_anywhere_in_a_recipe_is_a_problem_or_fine_but_never_a_crash(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(GOOD + "hosts: {cloud: {type: docker}}\nsearch: null\nlog: info\n")
    value = read_document(folder / "recipe.yaml").value
    for path in paths_in(value):
        for odd in ODD:
            changed = copy.deepcopy(value)
            here = changed
            for key in path[:-1]:
                here = here[key]
            here[path[-1]] = odd
            recipe = load(changed, folder=folder)
            assert all(problem.what and problem.where for problem in check(recipe)), (path, odd)
            to_yaml(recipe)


@pytest.mark.parametrize(("metric", "what"), [
    ("perplexity: {}", "there is no text to read"),
    ("perplexity: {data: tone, file: tone.jsonl}", "both say what is read"),
    ("perplexity: {data: tone, windows: 0}", "`windows` is 0"),
    ("accuracy: {data: tone}", "the expected answer is not known"),
    ('accuracy: {data: tone, expect: "{tone}", max_samples: 0}', "`max_samples` is 0"),
])  # fmt: skip
def test_a_metric_that_could_not_be_taken_is_found_before_anything_runs(
    tmp_path: Path, metric: str, what: str
) -> None:
    (tmp_path / "tone.jsonl").write_text('{"phrase": "a", "tone": "joy"}\n')
    text = (
        'version: 1\nmodel: smollm2-135m\ndata:\n  tone: {files: tone.jsonl, template: "{phrase} {tone}"}\n'
        f"metrics:\n  {metric}\n"
    )

    (problem,) = problems_of(tmp_path, text)

    assert what in problem.what
