"""What keeps stored files true, and the test that fails without it."""

from __future__ import annotations

from protection import Protection

_CHECK = "tests/reliability/test_check.py"

PROTECTIONS = [
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
        test=f"{_CHECK}::test_a_writer_at_work_is_no_damage",
    ),
    Protection(
        name="old versions go before the files they name",
        file="mmsearch/store_prune.py",
        old="for path in dropped:\n        freed",
        new="for path in sorted(dropped, key=lambda each: each.parent.name, reverse=True):\n        freed",
        test="tests/storage/test_store_prune.py::test_a_prune_that_is_killed_leaves_versions_with_all_their_files",
    ),
]
