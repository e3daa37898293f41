"""What keeps a collection true through any history of files and runs, and its costs flat."""

from __future__ import annotations

from protection import Protection

_LIVES = "tests/reliability/test_stateful.py::test_a_collection_tells_the_truth_through_fifty_lives"
_FINDS = "tests/reliability/test_stateful_finds.py"
_COUNTERS = "tests/reliability/test_load_counters.py"

PROTECTIONS: list[Protection] = [
    Protection(
        name="rows that moved are not missing from where they were",
        file="indexer/survey.py",
        old=" & ~known.seen & ~known.taken)",
        new=" & ~known.seen)",
        test=_LIVES,
    ),
    Protection(
        name="ids are taken durably before they are given",
        file="mmsearch/manifest.py",
        old="    write(directory, replace(manifest, next_id=reserved.stop))\n    return reserved",
        new="    return reserved",
        test=_LIVES,
    ),
    Protection(
        name="files that are back are no longer missing",
        file="indexer/pipeline.py",
        old="        mark_returned(self._known, store)\n",
        new="",
        test=f"{_FINDS}::test_a_photo_that_comes_back_unreadable_is_no_longer_missing",
    ),
    Protection(
        name="missing items stay visible while their root is in trouble",
        file="mmsearch/search.py",
        old="if root_trouble(root.path, root.device) is not None}",
        new="if False}",
        test="tests/query/test_search.py::test_missing_items_stay_and_are_flagged_while_their_root_is_unhealthy",
    ),
    Protection(
        name="a place that holds a link or a directory has lost its file",
        file="indexer/origin.py",
        old="return stat.S_ISLNK(mode) or stat.S_ISDIR(mode)",
        new="return False",
        test=f"{_FINDS}::test_a_photo_that_moved_keeps_its_id_whatever_stands_in_its_place_now",
    ),
    Protection(
        name="a file that is back is not missing for being unreadable",
        file="indexer/settle.py",
        old="            self._known.returned[rows] = self._known.missing[rows]\n",
        new="            pass\n",
        test=f"{_FINDS}::test_a_photo_that_comes_back_unreadable_is_no_longer_missing",
    ),
    Protection(
        name="a batch is committed before it is large",
        file="indexer/write.py",
        old="    files: int = 256",
        new="    files: int = 100_000",
        test=f"{_COUNTERS}::test_going_on_after_a_kill_repeats_one_batch_at_most",
    ),
    Protection(
        name="a rescan opens no decode process and no model",
        file="indexer/plan.py",
        old="    return Step.UNCHANGED if stored.reason is None else Step.FAILED_BEFORE",
        new="    return Step.CHECK",
        test=f"{_COUNTERS}::test_a_rescan_of_unchanged_files_loads_no_model_and_reads_no_file",
    ),
    Protection(
        name="files that failed are not tried again while they are the same",
        file="indexer/plan.py",
        old="    return Step.UNCHANGED if stored.reason is None else Step.FAILED_BEFORE",
        new="    return Step.UNCHANGED if stored.reason is None else Step.CHANGED",
        test=f"{_COUNTERS}::test_bad_files_are_read_once_and_end_no_decode_process",
    ),
    Protection(
        name="a walk gives files as it comes to them",
        file="indexer/discover.py",
        old="        for path, extension in self.names():\n            try:",
        new="        for path, extension in list(self.names()):\n            try:",
        test=f"{_COUNTERS}::test_a_walk_takes_memory_for_its_depth_and_not_for_its_length",
    ),
    Protection(
        name="tables are synced for a publication and not for a commit",
        file="indexer/pipeline.py",
        old="        self._publisher.publish_if_due(self._place.manifest)",
        new="        self._publisher.publish(self._place.manifest)",
        test=f"{_COUNTERS}::test_syncs_follow_the_number_of_batches_not_of_files",
    ),
    Protection(
        name="room on the disk is asked for before a run",
        file="indexer/space.py",
        old="    if free < needed:",
        new="    if free < 0:",
        test=f"{_COUNTERS}::test_a_run_refuses_to_start_without_twice_the_room_that_its_rows_take",
    ),
]
