"""What protects from kills, disks, drives and other writers: each taken away, and who misses it."""

from __future__ import annotations

from protection import Protection

PROTECTIONS = [
    Protection(
        "tables are pushed to the disk before a snapshot names their versions",
        "indexer/publish.py",
        "        if changed or head.table_versions != self._durable or not self._store.is_recorded:\n"
        "            self._make_durable(head)",
        "        if changed or head.table_versions != self._durable or not self._store.is_recorded:\n            pass",
        "tests/reliability/test_disk_power_loss.py::test_what_is_acknowledged_has_been_pushed_to_the_disk",
    ),
    Protection(
        "CURRENT names a snapshot after its manifest is on the disk",
        "mmsearch/snapshot_writer.py",
        "        write_manifest(self._directory, SnapshotManifest(number, head, segments, dead))\n"
        "        write_current(self._directory, number)",
        "        write_current(self._directory, number)\n"
        "        write_manifest(self._directory, SnapshotManifest(number, head, segments, dead))",
        "tests/reliability/test_kill_sweep.py::test_killed_in_the_moment_of_publishing_the_old_or_the_new_one_answers",
    ),
    Protection(
        "a file that is replaced is pushed to the disk before it gets its name",
        "mmsearch/durable.py",
        "            os.fsync(file.fileno())\n        temporary.rename(path)",
        "        temporary.rename(path)",
        "tests/storage/test_durable.py::test_bytes_reach_the_disk_before_the_name_and_the_name_before_the_return",
    ),
    Protection(
        "an old vector goes before the row of a new content is written",
        "mmsearch/store.py",
        "        if self._drop_vectors(vector_ids) or after.any():",
        "        if False:",
        "tests/indexer/test_killed_swap.py",
    ),
    Protection(
        "a row that was written again is published again",
        "indexer/publish.py",
        "(other_ids[places] == ids) & (other_revisions[places] == revisions)",
        "other_ids[places] == ids",
        "tests/indexer/test_index_counts.py::test_a_changed_picture_is_embedded_again_and_keeps_its_id",
    ),
    Protection(
        "what a killed run left without a row is swept",
        "indexer/workplace.py",
        "            store.sweep()\n            yield place",
        "            yield place",
        "tests/indexer/test_runs.py::test_embeddings_of_rows_that_a_killed_run_left_unfinished_are_swept",
    ),
    Protection(
        "one process writes at a time",
        "mmsearch/durable.py",
        "            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "",
        "tests/storage/test_writer_lock.py::test_lock_of_another_process_names_host_pid_and_time",
    ),
    Protection(
        "hard links are tried out before a collection is made",
        "indexer/workplace.py",
        "        probe_hard_links(directory)\n",
        "",
        "tests/reliability/test_disk_faults.py::test_a_file_system_without_hard_links_is_refused_in_one_sentence",
    ),
    Protection(
        "a run begins only where there is room for it",
        "indexer/space.py",
        "    if free < needed:",
        "    if False:",
        "tests/indexer/test_runs.py::test_a_disk_without_room_is_noticed_at_the_start",
    ),
    Protection(
        "what the operating system refuses is told in a sentence",
        "indexer/workplace.py",
        "    except OSError as error:\n        raise CollectionError(\n"
        '            f"{safe_path(str(directory))}: cannot be written',
        "    except ZeroDivisionError as error:\n        raise CollectionError(\n"
        '            f"{safe_path(str(directory))}: cannot be written',
        "tests/reliability/test_disk_faults.py::test_a_call_that_fails_for_ever_ends_the_run_and_nothing_else_is_acknowledged",
    ),
    Protection(
        "a root in trouble loses nothing",
        "indexer/prune.py",
        "        elif objection is None:\n            missing.append(rows)",
        "        elif True:\n            missing.append(rows)",
        "tests/indexer/test_missing.py::test_a_root_in_trouble_loses_nothing_and_is_warned_about",
    ),
    Protection(
        "a drive inside of a root that is not mounted loses nothing",
        "indexer/survey.py",
        "(set() if unmounted_too else self.unmounted())",
        "set()",
        "tests/indexer/test_mounts.py::test_files_of_a_drive_that_is_not_mounted_stay",
    ),
    Protection(
        "a drive that fails ends the walk",
        "indexer/discover.py",
        "        if error.errno in DRIVE_GONE or (",
        "        if (",
        "tests/indexer/test_discover.py::test_a_drive_that_goes_away_ends_the_walk",
    ),
    Protection(
        "a file on a drive that fails keeps its row",
        "indexer/settle.py",
        "        return stored and (failed.errno in DRIVE_GONE or looks_the_same)",
        "        return stored and looks_the_same",
        "tests/indexer/test_missing.py::test_a_file_that_answers_with_a_broken_drive_keeps_its_row",
    ),
    Protection(
        "time in which we were stopped counts against no file",
        "indexer/worker_process.py",
        "min(time.monotonic() - before, 2 * moment)",
        "time.monotonic() - before",
        "tests/indexer/test_decode_worker.py::test_time_in_which_the_parent_was_stopped_is_not_the_files_fault",
    ),
]
