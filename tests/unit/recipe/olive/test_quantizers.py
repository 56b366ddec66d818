from __future__ import annotations

from pathlib import Path

import pytest

from picual.recipe.check import check
from picual.recipe.document import read_document
from picual.recipe.olive import import_config

PUBLIC = Path(__file__).parents[5] / "shared" / "data" / "olive-configs"
BUILD = {"type": "ModelBuilder", "precision": "int4"}
ROWS = {
    "name": "rows", "type": "HuggingfaceContainer", "load_dataset_config": {"data_name": "owner/rows"},
    "pre_process_data_config": {"text_cols": "text", "strategy": "join"},
}  # fmt: skip
WIKITEXT = {
    "name": "wikitext2_train_joined", "type": "HuggingfaceContainer",
    "load_dataset_config": {"data_name": "wikitext", "subset": "wikitext-2-raw-v1", "split": "train"},
    "pre_process_data_config": {
        "strategy": "join", "add_special_tokens": False, "max_seq_len": 4096, "max_samples": 128,
    },
}  # fmt: skip


@pytest.fixture
def read(olive):
    """Return an importer of passes whose recipe passes the check, unless the test expects problems."""

    def import_(passes, *, accepted=True, **more):
        model = {"type": "HfModel", "model_path": "owner/name"}
        recipe = olive({"input_model": model, "passes": passes, **more})
        assert ([one.what for one in check(recipe)] == []) is accepted
        return recipe

    return import_


def one(recipe):
    (step,) = recipe.steps
    return step.type, dict(step.fields)


def shown(recipe):
    return [(step.name, step.type, dict(step.fields)) for step in recipe.steps]


def note(recipe, path):
    return next((one.kind, one.text) for one in recipe.notes if one.path == path)


def test_rtn_becomes_rtn_with_a_search_for_scales(read):
    given = {"type": "Rtn", "bits": 4, "group_size": 32, "sym": True, "lm_head": False, "embeds": False}

    recipe = read({"r": given})

    assert one(recipe) == ("rtn", {"bits": 4, "block": 32, "symmetric": True})
    kind, text = note(recipe, "passes.r.type")
    assert kind == "mapped"
    assert "becomes `rtn`: zero points and scales are searched for" in text
    assert "`search: false`" in text
    assert note(recipe, "passes.r.lm_head")[0] == note(recipe, "passes.r.embeds")[0] == "replaced"


def test_a_group_that_is_left_out_is_olives(read):
    recipe = read({"r": {"type": "Rtn"}})

    assert one(recipe) == ("rtn", {"block": 128})
    assert note(recipe, "passes.r.group_size") == ("defaulted", "left out: 128, as Olive does")
    assert "8 bits" in note(recipe, "passes.r.lm_head")[1]


@pytest.mark.parametrize(
    ("head", "fields"),
    [
        ({"bits": 4, "lm_head": True}, {"bits": 4, "head": "int4", "head_block": 32}),
        ({"bits": 8, "lm_head": True}, {"bits": 8, "head": "int8", "head_block": 32}),
        ({"lm_head": True, "overrides": {"lm_head": {"bits": 8, "group_size": 128}}},
         {"head": "int8", "head_block": 128}),
        ({"lm_head": True, "overrides": {"lm_head": {"bits": 8}, "model.embed_tokens": {"bits": 8}}},
         {"head": "int8", "head_block": 32}),
        ({"overrides": {"model.embed_tokens": {"bits": 4}}}, {"overrides": {"model.embed_tokens": {"bits": 4}}}),
    ],
)  # fmt: skip
def test_the_head_has_the_bits_that_are_said_of_it(read, head, fields):
    assert one(read({"r": {"type": "Rtn", "group_size": 32, **head}})) == ("rtn", {"block": 32, **fields})


def test_single_weights_are_named_as_in_olive(read):
    overrides = {
        "model.layers.0.mlp.down_proj": {"bits": 8, "group_size": 100, "symmetric": True},
        "model.layers.1.mlp.down_proj": {"bits": 16},
    }

    recipe = read({"r": {"type": "Rtn", "overrides": overrides}})

    assert one(recipe)[1]["overrides"] == {
        "model.layers.0.mlp.down_proj": {"bits": 8, "block": 128, "symmetric": True},
        "model.layers.1.mlp.down_proj": {"bits": 8},
    }  # fmt: skip
    assert "the nearest to 100" in note(recipe, "passes.r.overrides.model.layers.0.mlp.down_proj")[1]
    assert note(recipe, "passes.r.overrides.model.layers.1.mlp.down_proj")[0] == "replaced"


def test_what_olive_leaves_in_float_gets_eight_bits(read):
    names = ["lm_head", "o_proj", "model.embed_tokens", "visual"]

    recipe = read({"r": {"type": "Rtn", "modules_to_not_convert": names}})

    assert one(recipe) == ("rtn", {"block": 128, "head": "int8", "overrides": {"*o_proj*": {"bits": 8}}})
    assert note(recipe, "passes.r.modules_to_not_convert")[0] == "replaced"


def test_gptq_becomes_gptq_on_the_same_text(read):
    given = {"type": "Gptq", "bits": 4, "group_size": 128, "sym": False, "desc_act": True, "damp_percent": 0.05}

    recipe = read({"g": {**given, "data_config": "rows"}}, data_configs=[ROWS])

    assert one(recipe) == (
        "gptq",
        {"bits": 4, "block": 128, "symmetric": False, "damping": 0.05, "order": "activation", "data": "rows"},
    )
    assert note(recipe, "passes.g.type") == ("mapped", "becomes `gptq`")


def test_gptq_without_text_takes_ours_and_keeps_an_order_that_is_asked_for(read):
    recipe = read({"g": {"type": "Gptq", "desc_act": False, "lm_head": True, "quantize_vision": False}})

    assert one(recipe) == ("gptq", {"block": 128, "head": "int4", "head_block": 128, "order": "given"})
    assert note(recipe, "passes.g.data_config")[0] == "defaulted"
    assert note(recipe, "passes.g.quantize_vision") == ("mapped", "only the decoder is quantized")


def test_the_libraries_for_gptq_become_gptq_with_the_widest_block_for_a_channel(read):
    given = {"type": "GptqModel", "bits": 4, "sym": True, "group_size": -1, "lm_head": False, "device": "cuda"}

    recipe = read({"g": {**given, "data_config": "wikitext2_train_joined"}}, data_configs=[WIKITEXT])

    fields = {"bits": 4, "block": 256, "symmetric": True, "data": "wikitext2_train_joined"}
    assert one(recipe) == ("gptq", fields)
    kind, text = note(recipe, "passes.g.group_size")
    assert (kind, "blocks of 256" in text) == ("replaced", True)
    assert note(recipe, "passes.g.device")[0] == "ignored"
    assert one(read({"g": {"type": "GptqQuantizer", "sym": True, "group_size": 32, "static_groups": True}})) == (
        "gptq", {"block": 32, "symmetric": True},
    )  # fmt: skip


def test_patterns_of_gptqmodel_are_patterns_of_ours_where_they_are_simple(read):
    dynamic = {
        r"+:.*\.down_proj": {"bits": 8, "group_size": 32}, r"-:.*\.o_proj": {}, "-:lm_head": {},
        "-:.*visual.*": {}, r".*\.(1|2)\..*": {"bits": 8},
    }  # fmt: skip

    recipe = read({"g": {"type": "GptqModel", "dynamic": dynamic}})

    assert one(recipe) == (
        "gptq",
        {"block": 128, "head": "int8",
         "overrides": {"*.down_proj": {"bits": 8, "block": 32}, "*.o_proj": {"bits": 8}}},
    )  # fmt: skip
    assert note(recipe, r"passes.g.dynamic..*\.(1|2)\..*")[0] == "later"
    assert note(recipe, r"passes.g.dynamic.-:.*\.o_proj")[0] == "replaced"
    assert note(recipe, "passes.g.sym")[0] == "defaulted"


@pytest.mark.parametrize(
    ("given", "block"), [(16, 16), ("64", 64), (512, 256), (48, 64), (40, 32), (0, 256), (-1, 256), (10**400, 256)]
)
def test_a_group_becomes_the_nearest_block(read, given, block):
    recipe = read({"r": {"type": "Rtn", "group_size": given}})

    assert one(recipe) == ("rtn", {"block": block})
    is_same = str(block) == str(given)
    assert note(recipe, "passes.r.group_size")[0] == ("mapped" if is_same else "replaced")


@pytest.mark.parametrize("type_", ["Rtn", "Gptq", "GptqModel", "KQuant"])
def test_three_bits_are_refused_with_those_that_there_are(read, type_):
    recipe = read({"q": {"type": type_, "bits": 3}}, accepted=False)

    assert [problem.what for problem in check(recipe)] == ["`bits` is 3; it must be 2, 4 or 8"]


def test_three_bits_for_a_single_weight_are_refused(read):
    recipe = read({"q": {"type": "Rtn", "overrides": {"a": {"bits": 3}}}}, accepted=False)

    assert [problem.what for problem in recipe.problems] == ["`bits` is 3; it must be 2, 4 or 8"]


def test_kquant_becomes_rtn_whose_search_is_the_same_idea(read):
    recipe = read({"k": {"type": "KQuant", "bits": 8, "sym": False, "lm_head": True, "embeds": True}})

    assert one(recipe) == (
        "rtn", {"bits": 8, "block": 32, "symmetric": False, "head": "int8", "head_block": 32},
    )  # fmt: skip
    assert "the same idea" in note(recipe, "passes.k.type")[1]
    assert note(recipe, "passes.k.embeds")[0] == "mapped"


def test_awq_becomes_awq(read):
    given = {"type": "AutoAWQQuantizer", "bits": 4, "zero_point": False, "q_group_size": 64, "version": "gemm"}

    recipe = read({"a": {**given, "duo_scaling": False, "input_model_dtype": "fp16"}})

    assert one(recipe) == ("awq", {"bits": 4, "block": 64, "symmetric": True, "duo_scaling": False})
    kind, text = note(recipe, "passes.a.type")
    assert (kind, text.startswith("becomes `awq`")) == ("mapped", True)
    assert note(recipe, "passes.a.duo_scaling")[0] == "mapped"
    assert note(recipe, "passes.a.data_config")[0] == "defaulted"


@pytest.mark.parametrize(("after", "ours"), [("Rtn", "rtn"), ("Gptq", "gptq")])
def test_clipping_is_a_part_of_the_quantizer_after_it(read, after, ours):
    recipe = read({"clip": {"type": "AutoClip", "n_grid": 20}, "q": {"type": after}, "build": BUILD})

    assert [(step.name, step.type) for step in recipe.steps] == [("q", ours), ("build", "build-genai")]
    kind, text = note(recipe, "passes.clip")
    assert (kind, text.startswith("is a part of step `q`")) == ("mapped", True)


def test_bits_by_sensitivity_become_a_mean_that_quantize_keeps(read):
    recipe = read({
        "s": {"type": "SelectiveMixedPrecision", "algorithm": "kld_gradient", "bits": 4, "high_bits": 8,
              "ratio": 0.65, "sym": False, "group_size": 128},
        "g": {"type": "gptq", "bits": 4, "sym": False, "group_size": 128, "damp_percent": 0.01},
        "r": {"type": "rtn", "bits": 8, "sym": False, "group_size": 128, "lm_head": True, "embeds": True,
              "overrides": {"lm_head": {"bits": 8}, "model.embed_tokens": {"bits": 8}}},
        "m": {"type": "ModelBuilder", "precision": "int4", "extra_options": {"filename": "text.onnx"}},
    })  # fmt: skip

    # Layers: 0.65 * 4 + 0.35 * 8, and 36 bits for each 128; of all weights 15 % in the head, at 8.6 bits.
    assert shown(recipe) == [
        ("g", "quantize", {"bits_per_weight": 6.1, "symmetric": False, "head": "int8"}),
        ("m", "build-genai", {}),
    ]
    assert "within a mean of 6.1 bits a weight" in note(recipe, "passes.s")[1]
    assert note(recipe, "passes.g.damp_percent")[0] == note(recipe, "passes.g.group_size")[0] == "ignored"
    assert note(recipe, "passes.r") == (
        "mapped", "is a part of step `g`, which rounds head and embeddings too",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("algorithm", "after", "expected"),
    [
        ("k_quant_last", "Gptq", ("gptq", {"block": 32, "head": "int8"})),
        ("high_precision_lm_head", "Rtn", ("rtn", {"block": 32, "head": "int8"})),
        ("k_quant_mixed", "Gptq", ("quantize", {"bits_per_weight": 6.3})),
        ("k_quant_down", "Rtn", ("quantize", {"bits_per_weight": 6.1, "effort": "fast"})),
    ],
)
def test_rules_for_layers_become_a_mean_and_one_for_the_head_its_bits(read, algorithm, after, expected):
    says = {"type": "SelectiveMixedPrecision", "algorithm": algorithm}

    recipe = read({"s": says, "q": {"type": after, "group_size": 32}})

    assert one(recipe) == expected
    assert note(recipe, "passes.s")[0] == "mapped"


@pytest.mark.parametrize("wrong", [{"algorithm": "best"}, {"algorithm": "snr"}, {"algorithm": "snr", "ratio": 2}])
def test_bits_that_nothing_decides_have_no_effect_and_say_so(read, wrong):
    recipe = read({"s": {"type": "SelectiveMixedPrecision", **wrong}, "q": {"type": "Rtn"}})

    assert one(recipe) == ("rtn", {"block": 128})
    assert note(recipe, "passes.s")[0] == "ignored"


@pytest.mark.parametrize("type_", ["SelectiveMixedPrecision", "AutoClip"])
def test_what_is_said_for_no_quantizer_is_not_taken_for_one(read, type_):
    recipe = read({"s": {"type": type_}, "m": BUILD}, accepted=False)

    assert [step.type for step in recipe.steps] == [type_, "build-genai"]
    assert note(recipe, "passes.s")[1].startswith(f"`{type_}` says how the quantizer right after it quantizes")


@pytest.mark.parametrize("precision", ["int4", "fp16"])
def test_a_builder_keeps_the_integers_of_the_step_before_it(read, precision):
    build = {
        "type": "ModelBuilder", "precision": precision, "int4_block_size": 32, "int4_accuracy_level": 4,
        "int4_op_types_to_quantize": ["MatMul", "Gather"], "extra_options": {"int4_algo_config": "k_quant_mixed"},
    }  # fmt: skip

    recipe = read({"r": {"type": "Rtn", "group_size": 32}, "m": build})

    assert shown(recipe)[1] == ("m", "build-genai", {"accuracy_level": 4})
    for name in ("precision", "int4_block_size", "int4_op_types_to_quantize", "extra_options.int4_algo_config"):
        kind, text = note(recipe, f"passes.m.{name}")
        assert (kind, "integers" in text) == ("mapped", True)


def test_a_builder_without_a_quantizer_before_it_rounds_itself(read):
    assert one(read({"m": BUILD})) == ("build-genai", {"precision": "int4"})


@pytest.mark.parametrize(
    ("type_", "given", "fields"),
    [
        ("OnnxKQuantQuantization", {"bits": 8, "block_size": 32, "save_as_external_data": True},
         {"bits": 8, "block": 32}),
        ("OnnxBlockWiseRtnQuantization", {"block_size": 64, "is_symmetric": True, "accuracy_level": 4},
         {"block": 64, "symmetric": True}),
        ("OnnxBlockWiseRtnQuantization", {"nodes_to_exclude": ["/lm_head/MatMul"]},
         {"block": 128, "head": "int8"}),
        ("OnnxHqqQuantization", {"axis": 0}, {"block": 128}),
        ("OnnxMatMul4Quantizer", {"algorithm": "RTN"}, {"block": 32}),
    ],
)  # fmt: skip
def test_what_quantizes_an_exported_model_comes_before_the_export(read, type_, given, fields):
    recipe = read({"m": {"type": "ModelBuilder", "precision": "fp16"}, "q": {"type": type_, **given}})

    assert shown(recipe) == [("q", "rtn", fields), ("m", "build-genai", {})]
    assert "it comes before `build-genai`" in note(recipe, "passes.q.type")[1]
    assert note(recipe, "passes.m.precision")[0] == "mapped"


@pytest.mark.parametrize(
    "before",
    [
        {"c": {"type": "OnnxConversion"}}, {"m": BUILD},
        {"r": {"type": "Rtn"}, "m": {"type": "ModelBuilder", "precision": "fp16"}},
        {"m": {"type": "ModelBuilder", "precision": "fp16", "metadata_only": True}},
    ],
)  # fmt: skip
def test_other_quantizers_of_exported_models_are_for_later_with_the_way_it_is_done_here(read, before):
    recipe = read({**before, "q": {"type": "OnnxKQuantQuantization", "bits": 4}}, accepted=False)

    assert shown(recipe)[-1] == ("q", "OnnxKQuantQuantization", {"bits": 4})
    kind, text = note(recipe, "passes.q")
    assert (kind, "`rtn`, then `build-genai`" in text) == ("later", True)


SIZE = {"name": "bytes", "type": "size_on_disk", "sub_types": [{"name": "bytes", "priority": 1}]}
SEARCH = {"evaluators": {"all": {"metrics": [SIZE]}}, "evaluator": "all", "search_strategy": True}


def test_a_search_tries_what_olive_tries_of_a_quantizer(read):
    recipe = read({"r": {"type": "Rtn", "bits": [4, 8], "sym": False}, "m": BUILD}, **SEARCH)

    assert shown(recipe) == [
        ("r", "rtn",
         {"bits": {"search": [4, 8]}, "block": {"search": [256, 16, 32, 64, 128]}, "symmetric": False}),
        ("m", "build-genai", {}),
    ]  # fmt: skip


def test_a_builder_after_a_choice_between_quantizers_keeps_their_integers(read):
    among = [{"type": "Rtn", "disable_search": True}, {"type": "Gptq", "disable_search": True}]

    recipe = read({"q": among, "m": BUILD}, **SEARCH)

    assert [entry["type"] for entry in recipe.steps[0].fields["search"]] == ["rtn", "gptq"]
    assert recipe.steps[1].fields == {}


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("new-32-text", [
            ("g", "quantize", {"symmetric": False, "head": "int8", "bits_per_weight": 6.1}),
            ("m", "build-genai", {}),
        ]),
        ("new-33-LiquidAI-LFM2.5-1.2B-Thinking_cuda_int4", [
            ("r", "rtn", {"bits": 4, "block": 32, "symmetric": False, "head": "int8", "head_block": 32}),
            ("m", "build-genai", {}),
        ]),
        ("new-07-whisper-small_webgpu_int8", [
            ("onnx_kquant_quantization", "rtn", {"bits": 8, "block": 32}), ("builder", "build-genai", {}),
        ]),
        ("old-34-vlm_quantize_then_export", [
            ("decoder_gptq", "gptq", {"bits": 4, "block": 128, "symmetric": True}),
        ]),
    ],
)  # fmt: skip
def test_public_configs_that_quantize_become_steps_of_ours(name, steps):
    file = PUBLIC / f"{name}.json"
    if not file.is_file():
        pytest.skip("the public configs are not here")

    recipe = import_config(read_document(file))

    assert shown(recipe) == steps
    assert [problem.what for problem in check(recipe)] == []
