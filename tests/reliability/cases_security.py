"""What a hostile file, name, model or client may try; and the figures that are held under load."""

from __future__ import annotations

SECURITY: dict[str, dict[int, str]] = {
    "security: server (server)": {
        1: "a foreign Host header",
        2: "a name rebound to this computer, with our port",
        3: "no Host header",
        4: "two Host headers",
        5: "a foreign or null Origin on POST",
        6: "a request that the browser says is cross-site",
        7: "JSON posted as plain text",
        8: "a preflight request gets no permission",
        9: "WebSockets obey the same rules",
        10: "paths that climb out of a root",
        11: "a symbolic link put in a file's place after indexing",
        12: "row ids that are guessed or overflow",
        13: "scripts in names and captions, in a browser",
        17: "a chunked body of 33 MiB",
        18: "50 slow connections",
        19: "a header of 100 ranges",
        20: "a form of 10,000 parts",
        21: "a compressed request that unpacks to a great deal",
        22: "zip, PSD and EPS as uploads",
        23: "a billion results asked for",
        24: "addresses inside the network, in every notation",
        29: "listening to all addresses without a token",
        30: "path arguments, unknown ids and injected text over MCP",
    },
    "security: terminal and filters": {
        14: "names and captions of control characters: none reaches a terminal",
        15: "1,000 generated filters: no row is changed",
        16: "the wildcards of LIKE are ordinary characters",
    },
    "security: models": {
        25: "a pickle offered as a model: refused, and not run",
        26: "external data of an ONNX graph by '..', absolute path, symbolic or hard link: refused before it is loaded",
        27: "a FAISS file that was tampered with: not loaded",
        28: "a model file with another hash: refused",
    },
}

FIGURES: dict[str, dict[int, str]] = {
    "load figures": {
        1: "a rescan of 100,000 unchanged files: 20 s, no model loaded, 400 MB",
        2: "going on after a kill: one batch repeated, started in 3 s",
        3: "bad files: their deadline at most, once; 1,000 of them in 10,000 slow the good ones by less than 15 %",
        4: "memory over 20,000 files: 1 KB a file at most; descriptors and threads constant",
        6: "cost of syncing to the disk: 5 % of the time of indexing at most",
        7: "disk: three times the finished collection at most during a run; refuses to start without room",
        8: "opening after damage: 2 s and 1 s per 100,000 rows; `mmsearch check`: 100 MB/s",
        9: "a walk over a million entries: 60 s, memory by depth alone",
        10: "kill sweep: 200 points, no acknowledged row lost, none twice, nothing to mend by hand",
        11: "stateful properties: no invariant broken",
    },
    "load figures (server)": {5: "16 clients for ten minutes while indexing: no wrong answer, none failed"},
}
