from __future__ import annotations

import pytest

from picual.metrics import registry
from picual.recipe.fields import coerce

ROWS = {
    "name": "rows",
    "type": "HuggingfaceContainer",
    "load_dataset_config": {"data_name": "json", "data_files": "rows.json"},
    "pre_process_data_config": {"text_template": "{text} -> {tone}"},
    "dataloader_config": {"batch_size": 4},
}
PAIRS = {
    **ROWS,
    "name": "pairs",
    "pre_process_data_config": {"dataset_type": "pair", "source_max_len": 9, "target_max_len": 9},
}
TEXTS = {**ROWS, "name": "texts", "pre_process_data_config": {"text_cols": "text"}}
LABELS = {
    **ROWS, "name": "labels", "pre_process_data_config": {"input_cols": ["a", "b"], "label_col": "c"},
}  # fmt: skip


@pytest.fixture
def read(olive):
    """Return a reader of one metric."""

    def read_(*metrics, strategy=False, passes=None, **more):
        return olive({
            "passes": passes or {"tune": {"type": "LoRA", "r": 8}},
            "data_configs": [ROWS, PAIRS, TEXTS, LABELS],
            "evaluators": {"all": {"metrics": list(metrics)}},
            "evaluator": "all",
            "search_strategy": strategy,
            **more,
        })  # fmt: skip

    return read_


def score(*sub_types, data="pairs", **more):
    entries = [{"name": one} if isinstance(one, str) else one for one in sub_types]
    data_config = {"data_config": data} if data else {}
    return {"name": "acc", "type": "accuracy", **data_config, "sub_types": entries, **more}


def timing(kind="latency", *sub_types, **more):
    return {"name": kind, "type": kind, "sub_types": [{"name": one} for one in sub_types or ("avg",)], **more}


def found(recipe):
    return [(metric.name, metric.type, dict(metric.fields)) for metric in recipe.metrics]


def notes(recipe):
    return {note.path: (note.kind, note.text) for note in recipe.notes}


RUNS = {"warm_up": 10, "repeats": 20}


@pytest.mark.parametrize(
    ("metric", "fields"),
    [
        (timing(data_config="rows"), {"data": "rows", "batch_size": 4, **RUNS}),
        (timing(data_config="labels"), {"batch_size": 4, **RUNS}), (timing(), RUNS),
        (timing(user_config={"batch_size": 2, "dataloader_func": "make", "user_script": "mine.py"}),
         {"batch_size": 2, **RUNS}),
        ({"name": "latency", "type": "latency", "sub_type": "avg",
          "metric_config": {"warmup_num": 3, "repeat_test_num": 5, "sleep_num": 1}},
         {"warm_up": 3, "repeats": 5, "sleep": 1}),
    ],
)  # fmt: skip
def test_a_latency_is_that_of_batches(read, metric, fields):
    assert found(read(metric)) == [("latency", "batch-latency", fields)]


def test_the_first_sub_type_says_how_all_are_measured(read):
    metric = timing("latency", "avg", "p90")
    metric["sub_types"][0]["metric_config"] = {"warmup_num": 1}
    metric["sub_types"][1]["metric_config"] = {"warmup_num": 7}

    recipe = read(metric)

    assert recipe.metrics[0].fields == {"warm_up": 1, "repeats": 20}
    assert notes(recipe)["evaluators.all.metrics.0.sub_types.1.metric_config.warmup_num"][0] == "ignored"


def test_a_latency_and_a_throughput_of_the_same_runs_are_measured_once(read):
    recipe = read(timing("latency", "avg"), timing("throughput", "p50"))

    assert found(recipe) == [("latency", "batch-latency", RUNS)]
    assert "latency.throughput_p50" in notes(recipe)["evaluators.all.metrics.1.sub_types.0.name"][1]


@pytest.mark.parametrize(
    ("sub_type", "equal"),
    [
        ("accuracy_score", ("accuracy", {})), ("exact_match", ("accuracy", {})),
        ({"name": "accuracy_score", "metric_config": {"task": "multiclass", "num_classes": 5}},
         ("accuracy", {"by": "likelihood"})),
        ({"name": "accuracy_score", "metric_config": {"average": "macro"}},
         ("sklearn", {"metric": "balanced_accuracy_score"})),
        ("f1_score", ("sklearn", {"metric": "f1_score", "options": {"average": "binary", "pos_label": "1"}})),
        ({"name": "f1_score", "metric_config": {"task": "multiclass", "num_classes": 5, "average": "macro"}},
         ("accuracy", {"by": "likelihood"})),
        ({"name": "precision", "metric_config": {"task": "binary"}},
         ("sklearn", {"metric": "precision_score", "options": {"average": "binary", "pos_label": "1"}})),
        ({"name": "precision", "metric_config": {"task": "multiclass"}},
         ("sklearn", {"metric": "precision_score", "options": {"average": "micro"}})),
        ({"name": "recall", "metric_config": {"task": "multiclass", "average": "weighted", "threshold": 0.5}},
         ("sklearn", {"metric": "recall_score", "options": {"average": "weighted"}})),
        ({"name": "accuracy_score", "metric_config": {"task": "multiclass", "num_classes": 1000, "top_k": 5}},
         ("sklearn", {"by": "likelihood", "metric": "top_k_accuracy_score", "options": {"k": 5}})),
        ("auroc", ("sklearn", {"by": "likelihood", "metric": "roc_auc_score"})),
        ({"name": "auroc", "metric_config": {"task": "multiclass", "num_classes": 3}},
         ("sklearn", {"by": "likelihood", "metric": "roc_auc_score",
                      "options": {"multi_class": "ovr", "average": "macro"}})),
        ({"name": "accuracy_score", "metric_config": {"task": "multiclass", "num_classes": 1000, "top_k": 1}},
         ("accuracy", {})),
    ],
)  # fmt: skip
def test_a_score_of_torchmetrics_has_its_equal(read, sub_type, equal):
    kind, fields = equal

    assert found(read(score(sub_type))) == [("acc", kind, {"data": "pairs", **fields})]


@pytest.mark.parametrize(
    ("sub_type", "equal"),
    [
        ("accuracy", ("accuracy", {})), ("exact_match", ("accuracy", {})),
        ({"name": "f1", "metric_config": {"compute_params": {"average": "weighted"}, "result_key": "f1"}},
         ("sklearn", {"metric": "f1_score", "options": {"average": "weighted"}})),
        ({"name": "f1", "metric_config": {"compute_params": {"average": "macro"}}}, ("accuracy", {})),
        ({"name": "recall", "metric_config": {"compute_params": {"pos_label": 0}}},
         ("sklearn", {"metric": "recall_score", "options": {"average": "binary", "pos_label": "0"}})),
        ("matthews_correlation", ("sklearn", {"metric": "matthews_corrcoef"})),
    ],
)  # fmt: skip
def test_a_score_of_hugging_face_has_its_equal(read, sub_type, equal):
    kind, fields = equal

    recipe = read(score(sub_type, backend="huggingface_metrics"))

    assert found(recipe) == [("acc", kind, {"data": "pairs", **fields})]


def test_the_last_column_of_a_template_is_the_expected_answer(read):
    recipe = read(score("accuracy_score", data="rows"))

    assert found(recipe) == [("acc", "accuracy", {"data": "rows", "expect": "{tone}"})]
    assert "the last column of its template" in notes(recipe)["evaluators.all.metrics.0.data_config"][1]


def test_perplexity_reads_any_text(read):
    assert found(read(score("perplexity", data="texts"))) == [("acc", "perplexity", {"data": "texts"})]


@pytest.mark.parametrize(
    ("metric", "why"),
    [
        (score("accuracy_score", data="labels"), "a classifier"),
        (score("accuracy_score", data=None), "it names no data"),
        (score("accuracy_score", data="texts"), "no expected answer"),
        (score("wer"), "speech"), (score("accuracy_score", data="gone"), "no data config `gone`"),
        (score("glue", backend="huggingface_metrics"), "`glue` has no equal"),
        (score({"name": "recall", "metric_config": {"task": "multiclass", "top_k": 5}}), "best 5"),
        (score({"name": "accuracy", "metric_config": {"compute_params": {"normalize": False}}},
               backend="huggingface_metrics"), "their share"),
        (score({"name": "accuracy_score", "metric_config": {"task": "multilabel"}}), "several labels"),
        (score({"name": "f1_score", "metric_config": {"task": "multiclass", "average": None}}), "a class"),
        (score("accuracy_score", data=None, user_config={"dataloader_func": "rows"}), "`rows`"),
        ({"name": "x", "type": "custom", "user_config": {"user_script": "a.py"}}, "no function"),
        ({"name": "x", "type": "custom", "user_config": {"evaluate_func": "f"}}, "no `user_script`"),
        ({"name": "x", "type": "memory"}, "`memory` is not supported"), ({"name": "x"}, "without `type`"),
        (timing("latency", "p42"), "`p42` is not one of"),
    ],
)  # fmt: skip
def test_what_has_no_equal_is_for_later_with_its_reason(read, metric, why):
    recipe = read(metric)

    kind, text = notes(recipe)["evaluators.all.metrics.0"]
    assert (kind, why in text) == ("later", True), text


def test_of_several_numbers_those_without_an_equal_are_named_one_by_one(read):
    recipe = read(score("accuracy_score", "wer", "f1_score"))

    assert [(name, kind) for name, kind, _ in found(recipe)] == [("acc", "accuracy"), ("acc_f1_score", "sklearn")]
    assert notes(recipe)["evaluators.all.metrics.0.sub_types.1"][0] == "later"


def test_a_function_of_the_users_own_is_code(read, tmp_path):
    own = {"user_script": "code/mine.py", "script_dir": "code", "evaluate_func": "judge",
           "evaluate_func_kwargs": {"rows": 9}}  # fmt: skip
    kinds = [{"name": "Mean error"}, {"name": "worst"}]

    recipe = read(
        {"name": "mine", "type": "custom", "sub_types": kinds, "data_config": "pairs", "user_config": own}
    )

    fields = {
        "code": str(tmp_path / "code" / "mine.py"), "function": "judge", "options": {"rows": 9}, "data": "pairs",
        "number": "Mean error", "better": "lower",
    }  # fmt: skip
    assert found(recipe) == [("mine", "code", fields)]
    text = notes(recipe)
    assert "--trust" in text["evaluators.all.metrics.0.user_config.user_script"][1]
    assert text["evaluators.all.metrics.0.sub_types.0.name"][1] == "the number `mine`"
    assert text["evaluators.all.metrics.0.sub_types.1.name"][1] == "the number `mine.worst`"
    assert not recipe.trust


def test_keys_of_the_user_config_may_stand_beside_it(read, tmp_path):
    metric = {"name": "mine", "type": "custom", "sub_types": [{"name": "a", "higher_is_better": True}],
              "user_script": "mine.py", "metric_func": "judge"}  # fmt: skip

    assert found(read(metric))[0][2] == {"code": str(tmp_path / "mine.py"), "function": "judge", "number": "a"}


def test_the_arguments_of_a_function_in_the_old_form_are_its_options(read):
    own = {"user_script": "a.py", "evaluate_func": "judge", "func_kwargs": {"evaluate_func": {"rows": 9}}}

    assert found(read({"name": "mine", "type": "custom", "user_config": own}))[0][2]["options"] == {"rows": 9}


def test_a_harness_keeps_its_tasks(olive):
    evaluator = {
        "type": "LMEvaluator", "tasks": ["arc_easy", "size_on_disk"], "limit": 10, "num_fewshot": 2,
        "batch_size": 8, "apply_chat_template": True, "system_instruction": "Be brief.",
    }  # fmt: skip

    recipe = olive({"evaluators": {"all": evaluator}, "evaluator": "all"})

    assert found(recipe) == [
        ("lm-eval", "lm-eval", {"tasks": ["arc_easy"], "limit": 10, "shots": 2, "chat": True}),
        ("size", "size", {}),
    ]  # fmt: skip
    assert notes(recipe)["evaluators.all.system_instruction"][0] == "later"


def test_a_share_of_the_questions_of_a_harness_is_for_later(olive):
    recipe = olive(
        {"evaluators": {"all": {"type": "LMEvaluator", "tasks": ["arc"], "limit": 0.1}}, "evaluator": "all"}
    )

    assert recipe.metrics[0].fields == {"tasks": ["arc"]}
    assert notes(recipe)["evaluators.all.limit"][0] == "later"


def test_what_a_metric_config_says_is_accounted_for_value_by_value(read):
    config = {"task": "multiclass", "num_classes": 5, "threshold": 0.5}
    size = {"name": "d", "type": "size_on_disk", "sub_types": [{"name": "bytes", "metric_config": {"unit": "MB"}}]}

    text = notes(read(score({"name": "accuracy_score", "metric_config": config}), timing(), size))

    path = "evaluators.all.metrics.0.sub_types.0.metric_config"
    assert path not in text
    assert [text[f"{path}.{key}"][0] for key in config] == ["mapped", "mapped", "ignored"]
    assert text["evaluators.all.metrics.2.sub_types.0.metric_config"] == (
        "ignored",
        "this metric has nothing to set",
    )


def test_what_the_metrics_are_told_fits_them(read, tmp_path):
    (tmp_path / "mine.py").write_text("def judge(model, rows, options): return 1")
    own = {"user_script": "mine.py", "evaluate_func": "judge", "evaluate_func_kwargs": {"rows": 9}}
    classes = {"task": "multiclass", "num_classes": 3}
    names = ("accuracy_score", "f1_score", "auroc", "perplexity")

    recipe = read(
        timing("latency", data_config="rows"),
        score(*({"name": name, "metric_config": classes} for name in names)),
        score({"name": "accuracy_score", "metric_config": {**classes, "top_k": 2}}, data="rows"),
        {"name": "mine", "type": "custom", "sub_types": [{"name": "loss"}], "user_config": own},
        {"name": "size", "type": "size_on_disk"},
    )  # fmt: skip

    assert len(recipe.metrics) == 8
    for metric in recipe.metrics:
        values, wrong = coerce(registry.load(metric.type), metric.fields)
        assert wrong == []
        registry.build(metric.type, values)


def test_evaluators_that_are_not_named_are_ignored(olive):
    recipe = olive({"evaluators": {"all": {"metrics": [timing()]}, "other": {"type": "LMEvaluator"}}})

    assert recipe.metrics == ()
    assert notes(recipe)["evaluators.other"] == ("ignored", "no `evaluator` of the engine names it")


def test_metrics_of_one_name_have_names_of_their_own(read):
    scores = [{**score("Accuracy_Score", data=data), "name": "a.b"} for data in ("pairs", "rows")]

    recipe = read({**timing("latency", "AVG"), "name": "a.b"}, *scores)

    assert [name for name, _, _ in found(recipe)] == ["a_b", "a_b_accuracy_score", "a_b_accuracy_score_2"]
