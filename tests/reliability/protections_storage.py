"""What keeps stored files true, and the test that fails without it."""

from __future__ import annotations

from protection import Protection

_CHECK = "tests/reliability/test_check.py"
_KILLED = (
    "tests/storage/test_snapshot_durability.py"
    "::test_killed_anywhere_the_old_or_the_new_snapshot_stands_and_the_next_publication_works"
)
_WRITERS = "tests/reliability/test_check_writers.py"
_KILLED = "tests/reliability/test_mending_killed.py"
_ORDER = "tests/storage/test_store_order.py"
_RESULTS = "tests/reliability/test_repair_results.py"

PROTECTIONS = [
    Protection(
        name="what lost its embedding answers as it did before",
        file="indexer/publish.py",
        old="gone &= ~np.isin(live_ids, self.carried)",
        new="self.carried = NOTHING.ids",
        test=f"{_RESULTS}::test_a_run_elsewhere_keeps_what_waits_for_an_absent_drive",
    ),
    Protection(
        name="a repair that is interrupted publishes nothing",
        file="indexer/repair.py",
        old="        if interrupt.requested:",
        new="        if False:",
        test=f"{_RESULTS}::test_a_repair_that_is_interrupted_publishes_no_loss",
    ),
    Protection(
        name="damaged parts of a snapshot are moved aside before they could be removed",
        file="indexer/mend_snapshots.py",
        old="                move_aside(directory, part)",
        new="                pass",
        test=f"{_RESULTS}::test_damaged_parts_of_a_snapshot_are_moved_aside_and_never_deleted",
    ),
    Protection(
        name="checksums of table files are compared",
        file="mmsearch/examination.py",
        old="same, size = found == each.info, found.bytes",
        new="same, size = True, found.bytes",
        test="tests/reliability/test_bit_flips.py::test_every_flipped_bit_is_found_and_its_file_named",
    ),
    Protection(
        name="rows of a table that went back come from the snapshot",
        file="indexer/workplace.py",
        old="back = restored(directory, store, own)",
        new="back = list[str]()",
        test=f"{_CHECK}::test_a_lost_newest_version_heals_by_itself_and_says_so",
    ),
    Protection(
        name="a lost newest version is noticed",
        file="mmsearch/store_checksums.py",
        old="if known is None or known.version <= version:",
        new="if known is None or version:",
        test=f"{_CHECK}::test_a_lost_newest_version_heals_by_itself_and_says_so",
    ),
    Protection(
        name="rows of damaged files are left out, the others kept",
        file="mmsearch/store_repair.py",
        old="lost = [fragment for fragment in head.fragments if not sound.is_whole(fragment)]",
        new="lost = list[Fragment]()",
        test=f"{_CHECK}::test_a_damaged_data_file_is_named_and_its_rows_come_back",
    ),
    Protection(
        name="what merging made is compared with what was there",
        file="mmsearch/store_compaction.py",
        old="if not _same_rows(table, table.at(version)):",
        new="if False:",
        test="tests/reliability/test_optimize.py::test_a_merge_that_changes_rows_is_undone",
    ),
    Protection(
        name="a finding is looked at again when a writer was at work",
        file="indexer/check.py",
        old="if not found.damaged or now == state:",
        new="if found.files >= 0:",
        test=f"{_WRITERS}::test_a_writer_at_work_is_no_damage",
    ),
    Protection(
        name="old versions go before the files they name",
        file="mmsearch/store_prune.py",
        old="    freed = _removed([path for path in reversed(manifests(table)) if path not in kept])\n",
        new=(
            "    freed = _removed([path for path in _named_files(table) if path.relative_to(table).as_posix() not in"
            " needed])\n    freed += _removed([path for path in reversed(manifests(table)) if path not in kept])\n"
        ),
        test="tests/storage/test_store_prune.py::test_a_prune_that_is_killed_leaves_versions_with_all_their_files",
    ),
    Protection(
        name="old versions are gone for good before the files they name",
        file="mmsearch/store_prune.py",
        old="for directory in {path.parent for path in paths}:",
        new="for directory in list[Path]():",
        test=f"{_ORDER}::test_old_versions_are_gone_for_good_before_the_files_they_name",
    ),
    Protection(
        name="an item is safe before its new vector is written",
        file="mmsearch/store.py",
        old="            fsync_tree_new(self._items.path, self._synced)\n            self._add_vectors",
        new="            self._add_vectors",
        test=f"{_ORDER}::test_an_item_is_safe_before_its_new_vector_is_written",
    ),
    Protection(
        name="what a killed run dropped is pushed before its item changes",
        file="mmsearch/store.py",
        old="if self._drop_vectors(vector_ids) or after.any():",
        new="if self._drop_vectors(vector_ids):",
        test=f"{_ORDER}::test_an_old_vector_is_gone_for_good_before_its_item_changes_even_when_a_killed_run_dropped_it",
    ),
    Protection(
        name="a repair that is killed has said what the tables lack",
        file="indexer/mend_tables.py",
        old="            checksums.note_lack(table, lack)",
        new="            pass",
        test=f"{_KILLED}::test_rows_come_back_although_the_repair_that_dropped_them_was_killed",
    ),
    Protection(
        name="a run that is killed while it puts rows back has said what the tables lack",
        file="mmsearch/store_checksums.py",
        old='        known.lack = "newest"\n',
        new="",
        test=f"{_KILLED}::test_rows_come_back_although_the_run_that_put_them_back_was_killed",
    ),
    Protection(
        name="embeddings of tables that went back are compared with the snapshot",
        file="indexer/restore.py",
        old="    if store.is_behind:",
        new="    if False:",
        test=f"{_KILLED}::test_tables_that_are_many_versions_older_give_no_photo_the_embedding_of_another",
    ),
    Protection(
        name="what was recorded of lost versions is forgotten for good",
        file="mmsearch/store_checksums.py",
        old="                del known.files[name]\n        known",
        new="                pass\n        known",
        test=f"{_KILLED}::test_an_embedding_that_went_by_a_version_with_the_number_of_a_lost_one_stays_gone",
    ),
    Protection(
        name="a repair forgets what it moves aside before its number is given again",
        file="mmsearch/store_repair.py",
        old="        moved()\n",
        new="        pass\n",
        test=f"{_KILLED}::test_a_newest_version_and_a_file_of_the_one_before_are_damaged_and_one_repair_is_enough",
    ),
    Protection(
        name="a file that is gone is damage when a version that is there names it",
        file="mmsearch/examination.py",
        old="if each.is_missed is None or each.is_missed():",
        new="if True:",
        test=f"{_WRITERS}::test_files_that_go_after_their_versions_are_no_damage",
    ),
    Protection(
        name="a publisher that is killed beside no older snapshot is known by its mark",
        file="mmsearch/snapshot_unfinished.py",
        old="    if all(number >= live for number in snapshot_numbers(directory)):",
        new="    if False:",
        test=f"{_KILLED}[one]",
    ),
]
