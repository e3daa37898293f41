"""What protects from a hub, a checkpoint or a disk that is not as it should be: each taken away, and who misses it."""

from __future__ import annotations

from protection import Protection

_CHECKPOINTS = "tests/models/test_checkpoints.py::"
_DAMAGED = "tests/models/test_damaged_models.py::"
_HUB = "tests/models/test_hub_answers.py::"
_NAMES = "tests/models/test_model_names.py::"

PROTECTIONS = [
    Protection(
        "a hub cannot send more than it stated",
        "mmsearch/model_hub.py",
        "        if self._file.tell() + len(data) > self._limit:",
        "        if False:",
        _HUB + "test_more_bytes_than_stated_are_not_written",
    ),
    Protection(
        "a listing of the hub is checked, not believed",
        "mmsearch/model_hub_listing.py",
        "    if not isinstance(value, kind) or isinstance(value, bool) or (isinstance(value, int) and value < 0):",
        "    if False:",
        _HUB + "test_a_listing_that_is_none_is_one_sentence",
    ),
    Protection(
        "a torch whose weights-only loading can be passed opens no checkpoint",
        "mmsearch/torch_checkpoint.py",
        "    _require_safe_torch()\n    _LOG",
        "    _LOG",
        _CHECKPOINTS + "test_a_torch_whose_protection_can_be_passed_opens_no_checkpoint",
    ),
    Protection(
        "a checkpoint holds dense real numbers alone",
        "mmsearch/torch_checkpoint.py",
        "    if value.layout is not torch.strided or value.is_nested:",
        "    if False:",
        _CHECKPOINTS + "test_tensors_that_safetensors_does_not_keep_are_refused_by_name",
    ),
    Protection(
        "a cut off file of weights is told by its header",
        "mmsearch/model_import.py",
        '    if kind == "safetensors" and (damage := safetensors_damage(source)):',
        '    if kind == "none" and (damage := safetensors_damage(source)):',
        _CHECKPOINTS + "test_a_cut_off_file_is_to_be_fetched_again_and_trust_is_not_offered",
    ),
    Protection(
        "no import gets the name of a model that can be pulled",
        "mmsearch/model_import.py",
        "    if name.lower() in taken:",
        "    if False:",
        _NAMES + "test_no_import_gets_the_name_of_a_model_that_could_be_pulled",
    ),
    Protection(
        "a removed model's name is gone before its files are",
        "mmsearch/model_removal.py",
        "    path.rename(gone)\n    fsync_dir(store)\n",
        "    gone = path\n",
        _DAMAGED + "test_a_removed_name_is_gone_from_the_disk_before_its_files_are",
    ),
    Protection(
        "what waits for a directory that is not ours stays",
        "mmsearch/model_removal.py",
        "        if os.path.lexists(path) and not _is_ours(path):",
        "        waiting = drop_partial(store, directory)\n        if os.path.lexists(path) and not _is_ours(path):",
        _DAMAGED + "test_what_waits_for_a_directory_that_is_not_ours_stays",
    ),
]
