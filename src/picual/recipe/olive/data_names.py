"""The names that data sets and their parts go by in Olive's configs."""

from __future__ import annotations

from picual.recipe.olive.notes import Reason

# Spellings of the four parts: today's, and those of `components` and `component_kwargs`.
LOAD = ("load_dataset_config", "load_dataset")
PRE_PROCESS = ("pre_process_data_config", "pre_process_data", "pre_process")
POST_PROCESS = ("post_process_data_config", "post_process_data", "post_process")
LOADER = ("dataloader_config", "dataloader")
PARTS = (LOAD, PRE_PROCESS, POST_PROCESS, LOADER)

# Parts that Olive brings itself; any other name is the user's own code.
OWN_LOAD = {"huggingface_dataset", "default_load_dataset"}
OWN_PRE_PROCESS = {
    "huggingface_pre_process", "text_generation_huggingface_pre_process", "tokenizer_pre_process", "pre_process",
    "skip_pre_process", "default_pre_process_data", "huggingface_data_pre_process",
}  # fmt: skip

# Containers whose rows are no text: nothing that Picual does takes them.
NOT_TEXT = {
    "dummydatacontainer": "made-up tensors",
    "transformersdummydatacontainer": "made-up tensors",
    "transformerspromptdummydatacontainer": "made-up tensors",
    "transformerstokendummydatacontainer": "made-up tensors",
    "rawdatacontainer": "raw tensors",
    "imagedatacontainer": "images",
    "sdloradatacontainer": "images",
}

STRATEGIES = ("join", "join-random", "join-sliding-window", "line-by-line", "line-by-line-random")

_NO_CLASSIFIER: Reason = ("later", "data for classifiers is not supported in this version: Picual reads text")
_NO_OTHER: Reason = ("later", "audio and image data is not supported in this version: Picual reads text")
_TOKENIZER: Reason = ("ignored", "the tokenizer is the model's own")
_BATCHES: Reason = ("ignored", "batches are made by the step: `training.per_device_train_batch_size`")
UNUSED: dict[str, Reason] = {
    "model_name": _TOKENIZER,
    "model_config_path": _TOKENIZER,
    "trust_remote_code": ("ignored", "no code of a data set is ever run: its rows are read as they are"),
    "task": ("mapped", "rows become text for a model that generates text"),
    "label_col": _NO_CLASSIFIER,
    "label_cols": _NO_CLASSIFIER,
    "align_labels": _NO_CLASSIFIER,
    "labels_to_filter": _NO_CLASSIFIER,
    "is_split_into_words": _NO_CLASSIFIER,
    "input_cols": _NO_CLASSIFIER,
    "audio_col": _NO_OTHER,
    "text_col": _NO_OTHER,
    "id_col": _NO_OTHER,
    "sample_rate": _NO_OTHER,
    "image_col": _NO_OTHER,
    "caption_col": _NO_OTHER,
    "question_col": _NO_OTHER,
    "answer_col": _NO_OTHER,
    "options_col": _NO_OTHER,
    "feature_extractor_args": _NO_OTHER,
    "max_duration": _NO_OTHER,
    "truncation": ("mapped", "a text longer than `max_length` is always cut there"),
    "batched": ("ignored", "how rows are tokenized makes no difference to the result"),
    "processing_batch_size": ("ignored", "how rows are tokenized makes no difference to the result"),
    "kwargs": ("ignored", "rows are read without further arguments"),
    "random_retries": ("ignored", "a random strategy here never has to try again"),
    "streaming": ("ignored", "only the rows that are used are read, streamed or not"),
    "token": ("ignored", "the hub's token comes from the environment: `HF_TOKEN`"),
    "use_auth_token": ("ignored", "the hub's token comes from the environment: `HF_TOKEN`"),
    "batch_size": _BATCHES,
    "drop_last": _BATCHES,
    "shuffle": _BATCHES,
    "skip_dataloader": _BATCHES,
    "name": ("ignored", "a name that Olive gives the part for itself"),
    "col_filters": ("later", "rows are not filtered by column in this version: filter the file beforehand"),
    "data_dir": ("later", "a folder inside a hub data set cannot be chosen in this version: name its files"),
}
REST: Reason = ("ignored", "an argument that reading text has no use for")
