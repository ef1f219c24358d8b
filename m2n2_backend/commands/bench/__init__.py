"""The benchmark: parts, switches between images, the server under load, and the cost by size, in one run.

:func:`run_bench` returns one JSON object. Times are milliseconds unless a key says seconds, memory is in MB (2^20
bytes). ``{median, p95}`` and ``{p50, p95, p99}`` are of all repeats. What was not asked for is absent.

``machine``
    ``processor``, ``cores``, ``threads`` (of PyTorch, as a model process of the server has them), ``load_before``
    (1-minute load average before anything was measured; None where the system does not tell), ``device``, ``python``,
    ``torch``, ``version`` (of this package).
``size``, ``repeats``
    Width and height of the photographs; repeats as asked for.

``parts``: one entry by backbone (``color``, the one named, ``sd2-random``):
    ``backbone``, ``device``, ``width``, ``height``, ``grid`` ([h, w]), ``repeats``, ``doublings`` (k: the chain goes
    in blocks of 2^k steps);
    ``encode``: ``decode`` (JPEG), ``features`` (the whole model), ``aggregate`` (queries and keys → matrix),
    ``transition`` (temperature and IPF, and the powers), ``upsample_table`` (JBU), ``total`` (file → ready for
    clicks), and ``model``: ``features`` by its steps (``input`` → ``vae`` → ``unet`` of Stable Diffusion,
    ``input`` → ``forward`` of a ViT, ``features`` of color), each with what follows it;
    ``first_click``, ``new_click`` (a second one, the first is known), ``repeated_click`` (nothing is new), ``box``:
    each {median, p95};
    ``peak_memory``: {``process_mb``, ``device_mb`` (CUDA, else None)}, until the straightforward one began
    (``process_mb`` is the process's since its start where the system cannot reset it);
    ``blocks_deviation``: largest deviation of a map in blocks from the same map step by step, over the map's
    maximum, both in 32-bit on the device; None where ``doublings`` is 0;
    ``straightforward``: ``aggregate``, ``transition`` (None above 4096 cells), ``click`` (guidance as sparse as
    ours), ``click_dense`` (every pixel, as the paper has it; None where not run), ``candidates`` (thresholds it
    tries); it runs on the CPU in 32-bit whatever the device;
    ``ratio``: straightforward over ours: ``aggregate``, ``transition``, ``first_click``, ``new_click``,
    ``repeated_click``, ``click_dense`` (over our new click); None where there is no figure.

``switches``: first click on an image that is ``new``, only on ``disk``, in ``memory`` (features and table) or on the
``device`` (the whole state):
    each {median, p95, ``parts``: {``encode``, ``prepare``, ``segment``}}, and ``images``, their number.

``service``: a server in processes of its own, over HTTP, with the mask as RLE:
    ``start_seconds`` (until the model answers); one request at a time, each {p50, p95}: ``new_image``, ``new_click``,
    ``repeated_request``, ``disk_image`` (first click after a restart with the same cache folder);
    ``annotators``: ``count``, ``images``, ``seconds`` (until the last answer), ``requests``, ``answered``,
    ``images_asked`` (different ones), ``errors`` (number by status, ``no answer`` where the connection broke),
    ``first_error`` (reason phrase or None),
    ``throughput_per_second``, ``latency_ms`` and, apart, ``new_image_ms`` (nobody had asked about the image) and
    ``known_image_ms``, each {p50, p95, p99} (empty where none), ``model_runs``, ``resident_mb_before`` and
    ``resident_mb_after``: {``web``, ``worker``};
    ``masks``: ``checked`` (every answer of this section), ``mismatches`` (that differ in any pixel from the mask
    computed alone), ``largest_difference`` (share of a mask's pixels).

``sweep``: ``grids``: by ``grid``, of ``color``; ``photographs``: of the named backbone (``photographs_backbone``);
    each entry ``width``, ``height``, ``decode``, ``encode`` (without decode), ``new_click``, ``state_mb`` (all that
    is kept for clicks); ``grids_without_memory``: those left out.
"""

from __future__ import annotations

from m2n2_backend.commands.bench.options import SECTIONS, BenchOptions, parse_sections, parse_size
from m2n2_backend.commands.bench.run import Figures, run_bench

__all__ = ["SECTIONS", "BenchOptions", "Figures", "parse_sections", "parse_size", "run_bench"]
