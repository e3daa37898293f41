"""What protects a run from the files it meets: each taken away, with the test that misses it."""

from __future__ import annotations

from protection import Protection

_DECODE = "tests/images/test_image_decode.py::"
_POOL = "tests/indexer/test_decode_pool.py::"
_WORKER = "tests/indexer/test_decode_worker.py::"
_WALK = "tests/indexer/test_discover.py::"
_METADATA = "tests/images/test_image_metadata.py::"
_TEXTS = "tests/passages/test_passages.py::"
_BAD_FILES = "tests/indexer/test_bad_files.py::"

_LIMITS = [
    Protection(
        "pixels are counted before they are decoded",
        "mmsearch/image_open.py",
        "    if width * height > most:",
        "    if width * height > 1 << 60:",
        _DECODE + "test_rubbish_is_refused_with_its_reason",
    ),
    Protection(
        "a JPEG too large for the cap is decoded at a fraction",
        "mmsearch/image_open.py",
        "        image.draft(None, (side, side))",
        "        pass",
        _DECODE + "test_honest_large_jpeg_passes_where_a_png_of_its_size_is_refused",
    ),
    Protection(
        "bytes are counted before they are read",
        "indexer/reading.py",
        "    if before.st_size > most:",
        "    if before.st_size > 1 << 60:",
        _POOL + "test_sparse_file_of_50_gigabytes_is_refused_by_its_size",
    ),
    Protection(
        "a picture much longer than wide keeps only its centre",
        "mmsearch/image_limits.py",
        "_RATIO = 20.0",
        "_RATIO = 1e9",
        "tests/images/test_image_fit.py::test_thread_thin_picture_keeps_its_centre",
    ),
    Protection(
        "a decode process has a limit of memory",
        "indexer/worker.py",
        "        limit_memory(worker.limits.peak_bytes)\n",
        "",
        _POOL + "test_bomb_that_passes_the_header_check_meets_the_memory_limit",
    ),
    Protection(
        "a decode process writes no file",
        "indexer/confine.py",
        "        _lower(resource.RLIMIT_FSIZE, 0)\n",
        "",
        _WORKER + "test_confined_process_writes_no_file_and_takes_no_memory_beyond_its_share",
    ),
    Protection(
        "a text has a limit of bytes",
        "mmsearch/passages.py",
        "    if len(data) > MAX_TEXT_BYTES:",
        "    if len(data) > 1 << 60:",
        _TEXTS + "test_file_over_the_cap_is_too_large",
    ),
]

_ISOLATION = [
    Protection(
        "a file has a deadline",
        "indexer/worker_process.py",
        "        if self._left <= 0:\n            raise WorkerLateError\n",
        "        if self._left <= 0:\n            return False\n",
        _WORKER + "test_patience_ends",
    ),
    Protection(
        "a file that ends its process costs itself, and is named",
        "indexer/decode.py",
        "        return Failed(job.token, Reason.CRASHED, ",
        "        raise MMSearchError(",
        _POOL + "test_file_that_ends_its_process_costs_itself_alone",
    ),
    Protection(
        "a process that dies is tried once more, for it may not have been the file",
        "indexer/decode.py",
        "_TRIES = 2",
        "_TRIES = 1",
        _POOL + "test_process_that_dies_once_costs_nothing",
    ),
    Protection(
        "a decode process is replaced after a number of files",
        "indexer/decode.py",
        "self._worker.files >= _FILES_PER_WORKER",
        "self._worker.files >= 1 << 60",
        _POOL + "test_fresh_process_takes_over_after_a_number_of_files",
    ),
    Protection(
        "a decode process does not outlive its parent",
        "indexer/worker.py",
        '        die_with_parent(config["parent"])\n',
        "",
        _POOL + "test_killed_parent_leaves_no_process_though_one_computes_for_ever",
    ),
    Protection(
        "what a native library prints does not get among the answers",
        "indexer/worker.py",
        "    os.dup2(2, 1)  # a native",
        "    pass  # a native",
        _POOL + "test_what_a_native_library_prints_garbles_nothing",
    ),
    Protection(
        "a batch that the model fails on is halved until the picture is found",
        "indexer/embed.py",
        "            if len(rows) == 1:\n",
        "            if len(rows) >= 1:\n",
        _BAD_FILES + "test_a_picture_that_the_model_fails_on_costs_itself",
    ),
    Protection(
        "a file that changes while it is read is read again",
        "indexer/reading.py",
        "    if not same or len(data) != before.st_size:",
        "    if False:",
        _WORKER + "test_file_that_changes_while_it_is_read_is_read_again",
    ),
    Protection(
        "what is no regular file is never opened",
        "indexer/reading.py",
        "        _require_regular(os.lstat(path))  # before the open, which can wake a device\n",
        "",
        _WORKER + "test_special_file_is_refused_unopened",
    ),
    Protection(
        "a link that took a file's place is not followed",
        "indexer/reading.py",
        "os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK",
        "os.O_RDONLY | os.O_NONBLOCK",
        _WORKER + "test_file_replaced_just_before_it_is_opened_neither_blocks_nor_leads_astray",
    ),
    Protection(
        "a walk follows no links",
        "indexer/discover.py",
        "        if entry.is_symlink():\n",
        '        if entry.name == b"none":\n',
        _WALK + "test_links_are_counted_and_never_followed",
    ),
    Protection(
        "a collection among the photos is passed over",
        "indexer/discover.py",
        "        if is_collection(names):\n            return [], []\n",
        "",
        _WALK + "test_collections_inside_the_tree_are_passed_over",
    ),
    Protection(
        "a folder that cannot be listed costs itself",
        "indexer/discover.py",
        "            self.unread[path] = error\n",
        "            self.broken = error\n",
        _WALK + "test_a_tree_deeper_than_a_path_may_be_long_costs_its_deepest_part_alone",
    ),
]

_CONTENT = [
    Protection(
        "what is no picture here is refused by its first bytes, whatever its name",
        "mmsearch/image_formats.py",
        '    (b"%!PS", "PostScript"),\n',
        "",
        _DECODE + "test_postscript_never_runs_an_interpreter",
    ),
    Protection(
        "a damaged picture is decoded as far as it goes",
        "mmsearch/image_open.py",
        "        return salvage(data, name, open_image, error)\n",
        "        raise UnreadableFile(Reason.TRUNCATED, one_line(error)) from error\n",
        _DECODE + "test_damaged_picture_keeps_what_is_there_and_is_grey_elsewhere",
    ),
    Protection(
        "a picture of which less than a quarter is left is refused",
        "mmsearch/image_salvage.py",
        "ENOUGH = 0.25",
        "ENOUGH = 0.0",
        _DECODE + "test_a_quarter_of_the_pixels_is_the_least",
    ),
    Protection(
        "zeros where a JPEG should go on are no picture",
        "mmsearch/image_open.py",
        '    if name == "JPEG" and tail_is_zeros(data):',
        '    if name == "none" and tail_is_zeros(data):',
        _DECODE + "test_damaged_picture_keeps_what_is_there_and_is_grey_elsewhere",
    ),
    Protection(
        "a JPEG that lacks only its end marker keeps its last rows",
        "mmsearch/image_salvage.py",
        "    missing[: int(np.argmax(differs)) if differs.any() else len(differs)] = False\n",
        "",
        _DECODE + "test_jpeg_that_lacks_only_its_end_marker_keeps_every_row",
    ),
    Protection(
        "broken metadata costs the metadata alone",
        "mmsearch/image_metadata.py",
        "    except Exception:\n        return _UPRIGHT\n",
        "    except KeyError:\n        return _UPRIGHT\n",
        _METADATA + "test_each_question_alone_survives_broken_exif",
    ),
    Protection(
        "a date that no camera took is no date",
        "mmsearch/image_metadata.py",
        "    if not _EARLIEST_YEAR <= year <= _LATEST_YEAR:\n",
        "    if not year:\n",
        _METADATA + "test_absurd_dates_are_no_dates",
    ),
    Protection(
        "text of megabytes in a PNG is dropped",
        "mmsearch/image_open.py",
        "        if bare != data:\n",
        "        if bare is None:\n",
        _DECODE + "test_png_with_text_that_unpacks_to_200_megabytes_is_a_picture_still",
    ),
    Protection(
        "a text of control characters is no text",
        "mmsearch/passages.py",
        "    if junk > _MOST_JUNK * len(text):",
        "    if junk > len(text):",
        _TEXTS + "test_what_is_not_text_is_refused",
    ),
    Protection(
        "half a surrogate in a text does not reach the tables",
        "mmsearch/passages.py",
        '    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")',
        "    return text",
        _TEXTS + "test_lone_surrogate_in_json_becomes_a_question_mark",
    ),
]

_PIXELS = [
    Protection(
        "pictures are turned upright",
        "mmsearch/images.py",
        "    return image if turn is None else image.transpose(turn)",
        "    return image",
        _DECODE + "test_turned_lossless_picture_equals_its_upright_twin_exactly",
    ),
    Protection(
        "more than 8 bits are scaled, not clipped",
        "mmsearch/image_modes.py",
        '    if image.mode.startswith("I") or image.mode == "F":\n        return _eight_bits(image)\n',
        "",
        _DECODE + "test_unusual_picture_looks_like_its_plain_twin",
    ),
    Protection(
        "what is transparent is seen on white",
        "mmsearch/image_modes.py",
        "    if image.has_transparency_data:\n        return _on_white(image)\n",
        "",
        _DECODE + "test_unusual_picture_looks_like_its_plain_twin",
    ),
    Protection(
        "the transparent colour of a 16-bit PNG is found",
        "mmsearch/image_open.py",
        "tuple(level >> 8 for level in hidden)",
        "tuple(hidden)",
        "tests/images/test_image_odd_encodings.py::test_transparent_colour_of_a_16_bit_png_is_white",
    ),
    Protection(
        "inks that are not stored inverted are told apart",
        "mmsearch/image_modes.py",
        "        return ImageChops.invert(image)  # Pillow",
        "        return image  # Pillow",
        _DECODE + "test_unusual_picture_looks_like_its_plain_twin",
    ),
    Protection(
        "a profile of other colours is applied",
        "mmsearch/image_color.py",
        "            return conversion.apply(image.convert(conversion.mode))",
        '            return image.convert("RGB")',
        _DECODE + "test_unusual_picture_looks_like_its_plain_twin",
    ),
    Protection(
        "a profile that is no profile is ignored",
        "mmsearch/image_color.py",
        "    except (ImageCms.PyCMSError, ImportError, KeyError, OSError, ValueError):",
        "    except ImportError:",
        _DECODE + "test_unusual_picture_looks_like_its_plain_twin",
    ),
]

PROTECTIONS = [*_LIMITS, *_ISOLATION, *_CONTENT, *_PIXELS]
