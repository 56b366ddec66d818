"""Every name under ``training:``: what it takes, what an old one is called now, what has no effect here and why.

Names are those of ``transformers.TrainingArguments``, which takes seconds to import: this table stands for it when
a recipe is checked, and a test compares the two.
"""

from __future__ import annotations

from typing import Literal

Kind = Literal["whole", "number", "flag", "text", "mapping", "any"]

STRATEGIES = ("no", "steps", "epoch")
CHOICES: dict[str, tuple[str, ...]] = {
    "eval_strategy": STRATEGIES,
    "logging_strategy": STRATEGIES,
    "save_strategy": (*STRATEGIES, "best"),
    "train_sampling_strategy": ("random", "sequential", "group_by_length", "batch_rebalance"),
    "lr_scheduler_type": (
        "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup",
        "inverse_sqrt", "reduce_lr_on_plateau", "cosine_with_min_lr", "cosine_warmup_with_min_lr",
        "warmup_stable_decay", "greedy",
    ),
}  # fmt: skip

HONOURED: dict[str, Kind] = {
    "per_device_train_batch_size": "whole", "per_device_eval_batch_size": "whole",
    "gradient_accumulation_steps": "whole", "max_steps": "whole", "num_train_epochs": "number",
    "seed": "whole", "data_seed": "whole", "train_sampling_strategy": "text",
    "learning_rate": "number", "lr_scheduler_type": "text", "lr_scheduler_kwargs": "mapping",
    "warmup_steps": "number", "optim": "text", "optim_args": "text", "optim_target_modules": "any",
    "weight_decay": "number", "adam_beta1": "number", "adam_beta2": "number", "adam_epsilon": "number",
    "max_grad_norm": "number", "label_smoothing_factor": "number", "neftune_noise_alpha": "number",
    "bf16": "flag", "fp16": "flag", "tf32": "flag", "use_cpu": "flag",
    "activation_checkpointing": "flag", "activation_checkpointing_kwargs": "mapping",
    "torch_compile": "flag", "torch_compile_backend": "text", "torch_compile_mode": "text",
    "use_liger_kernel": "flag", "liger_kernel_config": "mapping", "torch_empty_cache_steps": "whole",
    "auto_find_batch_size": "flag",
    "logging_strategy": "text", "logging_steps": "number", "logging_first_step": "flag",
    "eval_strategy": "text", "eval_steps": "number", "eval_delay": "number", "eval_on_start": "flag",
    "save_strategy": "text", "save_steps": "number", "save_total_limit": "whole",
    "early_stopping_patience": "whole", "early_stopping_threshold": "number",  # of its EarlyStoppingCallback
    "load_best_model_at_end": "flag", "metric_for_best_model": "text", "greater_is_better": "flag",
    "dataloader_drop_last": "flag", "dataloader_num_workers": "whole", "dataloader_pin_memory": "flag",
    "dataloader_persistent_workers": "flag", "dataloader_prefetch_factor": "whole",
    "dataloader_multiprocessing_context": "text", "dataloader_in_order": "flag",
}  # fmt: skip

_OWN_LOSS = "the evaluation is the loss over every label, computed here"
_ONE_PROCESS = "training is one process on one device"
_EVENTS = "losses go to the run's events.jsonl"
_NO_HUB = "nothing is uploaded: the adapter is the step's result"
_CHECKPOINTS = "checkpoints are the step's own, and always complete enough to resume the same bytes"
_LOGS = "what the libraries say goes to the step's log"
_FIXED = "the pass fixes it, so that the same recipe gives the same bytes"
_GONE = "transformers 5 has no such argument"

WITHOUT_EFFECT: dict[str, str] = {
    "output_dir": _CHECKPOINTS, "save_only_model": _CHECKPOINTS, "save_on_each_node": _ONE_PROCESS,
    "enable_jit_checkpoint": _CHECKPOINTS, "resume_from_checkpoint": _CHECKPOINTS,
    "ignore_data_skip": _CHECKPOINTS,
    "restore_callback_states_from_checkpoint": _CHECKPOINTS,
    "full_determinism": _FIXED, "accelerator_config": _FIXED, "remove_unused_columns": _FIXED,
    "label_names": _FIXED,
    "logging_nan_inf_filter": "a loss that is not finite stops the step, and names it",
    "use_cache": "training needs no cache of keys and values",
    "length_column_name": "lengths are known from the tokens",
    "skip_memory_metrics": "the worker's memory is watched from outside",
    "do_train": "the pass trains", "do_eval": "it evaluates where there is evaluation data",
    "do_predict": "the metrics of the recipe predict",
    "report_to": _EVENTS, "run_name": _EVENTS, "project": _EVENTS, "trackio_space_id": _EVENTS,
    "trackio_bucket_id": _EVENTS, "trackio_static_space_id": _EVENTS,
    "include_num_input_tokens_seen": "tokens are counted always, padding left out",
    "log_on_each_node": _ONE_PROCESS, "log_level": _LOGS, "log_level_replica": _LOGS, "disable_tqdm": _LOGS,
    "debug": _LOGS,
    "prediction_loss_only": _OWN_LOSS, "eval_do_concat_batches": _OWN_LOSS, "eval_use_gather_object": _OWN_LOSS,
    "eval_accumulation_steps": _OWN_LOSS, "include_for_metrics": _OWN_LOSS, "batch_eval_metrics": _OWN_LOSS,
    "bf16_full_eval": _OWN_LOSS, "fp16_full_eval": _OWN_LOSS,
    "push_to_hub": _NO_HUB, "hub_token": _NO_HUB, "hub_private_repo": _NO_HUB, "hub_model_id": _NO_HUB,
    "hub_strategy": _NO_HUB, "hub_always_push": _NO_HUB, "hub_revision": _NO_HUB,
    "local_rank": _ONE_PROCESS, "parallelism_config": _ONE_PROCESS, "average_tokens_across_devices": _ONE_PROCESS,
    "ddp_find_unused_parameters": _ONE_PROCESS, "ddp_bucket_cap_mb": _ONE_PROCESS,
    "ddp_broadcast_buffers": _ONE_PROCESS, "ddp_static_graph": _ONE_PROCESS, "ddp_backend": _ONE_PROCESS,
    "ddp_timeout": _ONE_PROCESS, "fsdp": _ONE_PROCESS, "fsdp_config": _ONE_PROCESS, "deepspeed": _ONE_PROCESS,
    # Gone from transformers, and nothing took their place.
    "overwrite_output_dir": _CHECKPOINTS, "logging_dir": _EVENTS, "save_safetensors": "adapters are safetensors",
    "push_to_hub_model_id": _NO_HUB, "push_to_hub_organization": _NO_HUB, "push_to_hub_token": _NO_HUB,
    "fp16_opt_level": f"{_GONE}: it was for apex", "half_precision_backend": f"{_GONE}: it is torch's own",
    "fp16_backend": f"{_GONE}: it is torch's own", "past_index": _GONE, "mp_parameters": _GONE,
    "use_ipex": f"{_GONE}: torch has its kernels", "jit_mode_eval": _GONE, "tpu_num_cores": _ONE_PROCESS,
    "tpu_metrics_debug": _ONE_PROCESS, "sharded_ddp": _ONE_PROCESS, "xpu_backend": _ONE_PROCESS,
    "use_mps_device": f"{_GONE}: the device is found", "ray_scope": _GONE, "dispatch_batches": _ONE_PROCESS,
    "split_batches": _ONE_PROCESS, "fsdp_min_num_params": _ONE_PROCESS, "include_inputs_for_metrics": _OWN_LOSS,
    "fsdp_transformer_layer_cls_to_wrap": _ONE_PROCESS, "use_legacy_prediction_loop": _OWN_LOSS,
    "include_tokens_per_second": "tokens a second are counted always",
}  # fmt: skip

RENAMED: dict[str, str] = {
    "evaluation_strategy": "eval_strategy",
    "warmup_ratio": "warmup_steps",  # below 1 it is a share of all steps
    "no_cuda": "use_cpu",
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "torchdynamo": "torch_compile_backend",
}
# A flag of old -> the argument it became, and its value when the flag is set.
FLAGS: dict[str, tuple[str, str]] = {
    "group_by_length": ("train_sampling_strategy", "group_by_length"),
    "adafactor": ("optim", "adafactor"),
}
