"""The passes that Olive has, or once had, under their own names; and those that Picual has under another."""

from __future__ import annotations

LORA = ("lora",)
METHODS = ("dora", "loha", "lokr")  # of adapters, beside LoRA
QLORA = ("qlora",)
LOFTQ = ("loftq",)
MERGE = ("mergeadapterweights",)
BUILD = ("modelbuilder", "genaimodelexporter")
QUANTIZERS = ("rtn", "kquant", "gptq", "gptqquantizer", "gptqmodel", "autoawqquantizer")  # of checkpoints
ROUNDING = ("rtn", "kquant")  # those that may round what another quantizer leaves: head and embeddings
SAYING = ("selectivemixedprecision", "autoclip")  # how the next quantizer quantizes
ONNX_QUANTIZERS = (
    "onnxblockwisertnquantization", "onnxmatmul4quantizer", "onnxkquantquantization", "onnxhqqquantization",
)  # fmt: skip
ROTATING = ("quarot", "spinquant")

# Names that Olive itself gave up, and what took their place there.
RENAMED = {
    "genaimodelexporter": "ModelBuilder",
    "onnxmodeloptimizer": "OnnxPeepholeOptimizer",
    "ortperftuning": "OrtSessionParamsTuning",
    "onnxmatmul4quantizer": "OnnxBlockWiseRtnQuantization",
    "quarkquantizationpass": "QuarkQuantization",
    "vitisaiquantization": "QuarkQuantizationVitisAI",
}

# Those of which Olive searches parameters that a config leaves out, under today's names and earlier ones.
SEARCHED = frozenset((
    "aimetquantization", "autoclip", "genaimodelexporter", "gptq", "gptqquantizer", "incdynamicquantization",
    "incquantization", "incstaticquantization", "kquant", "loftq", "loha", "lokr", "lora", "dora", "modelbuilder",
    "nvmodeloptquantization", "onnxdynamicquantization", "onnxmatmul4quantizer", "onnxquantization",
    "onnxstaticquantization", "ortperftuning", "ortsessionparamstuning", "qlora", "quarkquantization",
    "quarkquantizationpass", "rtn", "selectivemixedprecision", "vitisaiquantization", "vitisquantization",
))  # fmt: skip

# Today's first, then those that are gone.
KNOWN: tuple[str, ...] = (
    "AddOliveMetadata", "AimetQuantization", "AutoAWQQuantizer", "AutoClip", "CaptureLayerAnnotations",
    "CaptureSplitInfo", "ComposeOnnxModels", "ConvertHfToGGUF", "DoRA", "DynamicToFixedShape",
    "EPContextBinaryGenerator", "ExtractAdapters", "Gptq", "GptqModel", "GptqQuantizer", "GraphSurgeries",
    "IncDynamicQuantization", "IncQuantization", "IncStaticQuantization", "InputNCHWtoNHWC", "KQuant", "LoHa",
    "LoKr", "LoRA", "LoftQ", "MatMulNBitsToQDQ", "MergeAdapterWeights", "MixedPrecisionOverrides",
    "MobiusBuilder", "ModelBuilder", "NVModelOptGraphSurgery", "NVModelOptQuantization",
    "OnnxBlockWiseRtnQuantization", "OnnxBnb4Quantization", "OnnxConversion", "OnnxDiscrepancyCheck",
    "OnnxDynamicQuantization", "OnnxFloatToFloat16", "OnnxHqqQuantization", "OnnxIODataTypeConverter",
    "OnnxKQuantQuantization", "OnnxOpVersionConversion", "OnnxPeepholeOptimizer", "OnnxQuantization",
    "OnnxQuantizationPreprocess", "OnnxScriptFusion", "OnnxStaticQuantization", "OpenVINOConversion",
    "OpenVINOEncapsulation", "OpenVINOIoUpdate", "OpenVINOOptimumConversion", "OpenVINOQuantization",
    "OpenVINOQuantizationWithAccuracy", "OpenVINOWeightCompression", "OptimumConversion", "OptimumMerging",
    "OrtMixedPrecision", "OrtSessionParamsTuning", "OrtTransformersOptimization", "QLoRA",
    "QNNContextBinaryGenerator", "QNNConversion", "QNNModelLibGenerator", "QNNPreprocess", "QairtEncapsulation",
    "QairtGenAIBuilder", "QairtMHA2SHA", "QairtPipelinePass", "QairtPreparation", "QuaRot", "QuarkQuantization",
    "QuarkQuantizationVitisAI", "Rtn", "RyzenGenerateModelLLM", "SDLoRA", "SaveTestModelConfig",
    "SelectiveMixedPrecision", "SliceGPT", "SparseGPT", "SpinQuant", "SplitModel", "StaticLLM",
    "VitisAIAddMetaData", "VitisGenerateModelLLM", "VitisGenerateModelSD", "AitkPython",
    "AppendPrePostProcessingOps", "CompositeToOnnxPackage", "GenAIModelExporter", "InsertBeamSearch",
    "MoEExpertsDistributor", "OnnxMatMul4Quantizer", "OnnxModelOptimizer", "OrtPerfTuning",
    "PyTorchTensorParallel", "QuantizationAwareTraining", "QuarkQuantizationPass", "SNPEConversion",
    "SNPEQuantization", "SNPEtoONNXConversion", "TorchTRTConversion", "VitisAIQuantization",
    "VitisQuantization",
)  # fmt: skip
