"""Command lines that cannot be run."""

import pytest

GROUP = "Flags"
RANDOM = "staff select train.jsonl --method random --out out"
MODELS = "staff select train.jsonl --small small --target target --out out"
PLAN = "staff plan train.jsonl --small small --target target"
COMPARE = "staff compare train.jsonl --target target --small small"

CASES = [
    ("no data", {}, "staff select --keep 0.5", 2, 'data is missing: give a training file, e.g. staff select train.jsonl …'),
    ("no size", {}, RANDOM, 2, 'nothing to choose: give --keep FRACTION (0.1 is 10 %) or --total N'),
    ("no small model", {}, "staff select train.jsonl --keep 0.5 --out out", 2, 'small is missing: give --small MODEL'),
    ("no target", {}, "staff select train.jsonl --small small --keep 0.5 --out out", 2, 'target is missing: give --target MODEL'),
    ("no folder to write to", {}, "staff select train.jsonl --method random --keep 0.5", 2, 'out is missing: give --out runs/NAME'),
    ("an empty folder name, as of a shell variable without a value", {}, "staff select train.jsonl --method random --keep 0.5 --out ''", 2, '--out must not be empty'),
    ("a command that is not known", {}, "staff selekt train.jsonl", 2, 'unknown command "selekt". Did you mean "select"? Available commands: select, score, why, finetune, evaluate, compare, report, cache, … (see staff --help)'),
    ("a flag that is not known", {}, f"{RANDOM} --keep 0.5 --fast", 2, 'unknown option: --fast; did you mean --format?'),
    ("a mistyped flag", {}, f"{RANDOM} --keep 0.5 --sede 3", 2, 'unknown option: --sede; did you mean --seed?'),
    ("a flag without its value", {}, f"{RANDOM} --keep", 2, '--keep needs a value (see staff select --help)'),
    ("two data files", {}, "staff select train.jsonl test.jsonl --method random --keep 0.5 --out out", 2, 'one operand is enough; left over: test.jsonl (see staff select --help)'),
    ("a fraction of 0", {}, f"{RANDOM} --keep 0", 2, '--keep 0 must be above 0 and at most 1: it is a fraction (0.1 keeps 10 %); for a number of rows use --total'),
    ("a percentage for a fraction", {}, f"{RANDOM} --keep 10", 2, '--keep 10 must be above 0 and at most 1: it is a fraction (0.1 keeps 10 %); for a number of rows use --total'),
    ("a fraction that is text", {}, f"{RANDOM} --keep lots", 2, "--keep must be a number, not 'lots' (a file goes before the flags: staff select train.jsonl …)"),
    ("a file after --keep", {}, "staff select --method random --out out --keep 0.5 train.jsonl", 2, "--keep must be a number, not 'train.jsonl' (a file goes before the flags: staff select train.jsonl …)"),
    ("a total of no rows", {}, f"{RANDOM} --total 0", 2, '--total must be at least 1, not 0'),
    ("a total of half rows", {}, f"{RANDOM} --total 1.5", 2, "--total must be a whole number, not '1.5'"),
    ("a total above the rows there are", {}, f"{RANDOM} --total 9", 2, '--total 9: train.jsonl has only 8 rows'),
    ("a fraction of less than one row", {}, f"{RANDOM} --keep 0.01", 2, 'keep 0.01 of 8 rows is less than one row; keep more'),
    ("one coreset twice", {}, f"{RANDOM} --keep 0.5 0.50", 2, 'the coreset 0.5 is asked for twice in --keep or --total'),
    ("tokens without a tokenizer", {}, f"{RANDOM} --tokens 100", 2, 'sizes in tokens need a tokenizer: give --target MODEL'),
    ("a mistyped method", {}, "staff select train.jsonl --method randon --keep 0.5 --out out", 2, 'invalid value "randon" for --method. Choose from: "staff", "random", "ccs", "d2", "el2n", "entropy", "grand", "ifd", "k-centre", "length", "loss", "moderate", "perplexity". Did you mean "random"? (see staff select --help)'),
    ("a cut of everything", {}, f"{RANDOM} --keep 0.5 --cut 1", 2, '--cut must be below 1, not 1'),
    ("no regions", {}, f"{RANDOM} --keep 0.5 --regions 0", 2, '--regions must be at least 1, not 0'),
    ("a thousand million regions", {}, f"{MODELS} --keep 0.5 --regions 1000000000", 2, '--regions must be at most 1000000, not 1000000000'),
    ("stability over one seed", {}, f"{RANDOM} --keep 0.5 --stability 1", 2, '--stability must be at least 2, not 1'),
    ("stability over a thousand million seeds", {}, f"{RANDOM} --keep 0.5 --stability 1000000000", 2, '--stability must be at most 1000, not 1000000000'),
    ("a list of ids that is not there", {}, f"{RANDOM} --keep 0.5 --include ids.txt", 3, 'cannot read ids.txt: No such file or directory'),
    ("a list with an id twice", {"ids.txt": "a\nb\na\n"}, f"{RANDOM} --keep 0.5 --exclude ids.txt", 3, "ids.txt: 'a' is in line 1 and line 3"),
    ("a list that is no text", {"ids.txt": b"\xff\xfe\xfd"}, f"{RANDOM} --keep 0.5 --exclude ids.txt", 3, 'ids.txt is not a text file: give ids, one a line'),
    ("an id to include that no row has", {"ids.txt": "nobody\n"}, f"{RANDOM} --keep 0.5 --include ids.txt", 2, "--include ids.txt: no usable row has the id 'nobody'"),
    ("an id on both lists", {"a.jsonl": '{"id": 1, "text": "a"}\n{"id": 2, "text": "b"}\n', "ids.txt": "1\n"}, "staff select a.jsonl --id-column id --method random --total 1 --out out --include ids.txt --exclude ids.txt", 2, "'1' is in both --include and --exclude"),
    ("neither fine-tuning nor none", {}, f"{MODELS} --keep 0.5 --skip-finetune --adapter adapter", 2, '--skip-finetune and --adapter exclude each other: give one'),
    ("a model beside stored scores", {}, "staff select --scores run --small small --keep 0.5", 2, '--small cannot be used with --scores: the stored scores of run were made with their own setting'),
    ("a device that is not there", {}, f"{MODELS} --keep 0.5 --device cuda:99", 2, "device 'cuda:99' is not available here; use --device cpu or auto"),
    ("a precision that is not known", {}, f"{MODELS} --keep 0.5 --dtype float64", 2, 'invalid value "float64" for --dtype. Choose from: "auto", "float32", "bfloat16", "float16". Did you mean "float16"? (see staff select --help)'),
    ("a length beyond the models' context", {}, f"{MODELS} --keep 0.5 --max-length 9999", 2, '--max-length 9999: small takes at most 512 tokens'),
    ("a metric that is not known", {}, "staff evaluate test.jsonl --model small --metrics loss rouge", 2, 'invalid value "rouge" for --metrics. Choose from: "loss", "rougeL", "bleu", "exact". Did you mean "rougeL"? (see staff evaluate --help)'),
    ("an adapter of rank 0", {}, "staff finetune train.jsonl --model small --out out --rank 0", 2, '--rank must be at least 1, not 0'),
    ("an adapter of rank a thousand million", {}, "staff finetune train.jsonl --model small --out out --rank 1000000000", 2, '--rank must be at most 4096, not 1000000000'),
    ("a negative learning rate", {}, "staff finetune train.jsonl --model small --out out --learning-rate -1", 2, '--learning-rate must be above 0, not -1'),
    ("a row, and no run", {}, "staff why --row 3", 2, 'which run? e.g. staff why runs/x --row 17'),
    ("a run, and no row", {}, "staff why run", 2, 'which row? give either --id ID or --row N'),
    ("a row by number and by id", {}, "staff why run --row 3 --id x", 2, 'which row? give either --id ID or --row N'),
    ("a row that is no number", {}, "staff why run --row first", 2, "--row must be a whole number from 0 on, not 'first'"),
    ("a row that is a digit and no number", {}, "staff why run --row ²", 2, "--row must be a whole number from 0 on, not '²'"),
    ("a number that is missing", {}, f"{RANDOM} --keep 0.5 --seed", 2, '--seed needs a value (see staff select --help)'),
    ("a file name that is not UTF-8", {}, "staff select train.jsonl --method random --keep 0.5 --out out\udcff", 2, "--out 'out\\udcff' is not UTF-8 text: rename the file or folder"),
    ("a comparison in a folder that is not UTF-8", {}, f"{COMPARE} --test test.jsonl --keep 0.5 --out out\udcff", 2, "--out 'out\\udcff' is not UTF-8 text: rename the file or folder"),
    ("a run's name that is not UTF-8", {}, "staff report run\udcff", 5, "the name of the run folder run\ufffd is not UTF-8: rename it"),
    ("a report of nothing", {}, "staff report", 2, 'which run? e.g. staff report runs/x'),
    ("a comparison without test data", {}, f"{COMPARE} --keep 0.5 --out out", 2, 'test is missing: give --test FILE'),
    ("a comparison of one method twice", {}, f"{COMPARE} --test test.jsonl --keep 0.5 --methods random random --out out", 2, 'random is asked for twice in --methods'),
    ("a comparison of no seeds", {}, f"{COMPARE} --test test.jsonl --keep 0.5 --seeds 0 --out out", 2, '--seeds must be at least 1, not 0'),
    ("a comparison of a thousand million seeds", {}, f"{COMPARE} --test test.jsonl --keep 0.5 --seeds 1000000000 --out out --dry-run", 2, '--seeds must be at most 1000, not 1000000000'),
    ("a plan without a size", {}, PLAN, 2, 'nothing to weigh: give --keep FRACTION (0.1 is 10 %) or --total N'),
    ("a plan of what costs nothing", {}, f"{PLAN} --keep 0.5 --method random", 2, '--method random needs no plan: it costs nothing'),
    ("a plan of stored scores", {}, f"{PLAN} --keep 0.5 --scores run", 2, '--scores needs no plan: no model runs, it takes seconds'),
    ("a plan for a device that is not known", {}, f"{PLAN} --keep 0.5 --device gtx-1080", 2, "device 'gtx-1080' is not in the table: give one of h200, h100-80gb, a100-80gb, a100-40gb, l40s, l4, a10, rtx-4090, rtx-3090, or measure on this machine with --probe"),
    ("a probe of a device that is elsewhere", {}, f"{PLAN} --keep 0.5 --device l4 --probe", 2, '--probe times this machine, not l4: leave --device out, or give cpu or cuda'),
    ("auto for the small model without a target", {}, "staff select train.jsonl --method grand --small auto --keep 0.5 --out out", 2, '--small auto goes by the target: give --target MODEL'),
    ("auto for a target that is not known", {}, "staff plan train.jsonl --small auto --target someone/llama --keep 0.5", 2, "--small auto: someone/llama is not in the table of families; give --small MODEL: one of the same makers and tokenizer, with a fifth of the target's parameters or fewer (staff families lists those that are known)"),
    ("auto for a folder of other sizes", {}, "staff plan train.jsonl --small auto --target target --keep 0.5", 2, "--small auto: no model in the table of families has the sizes of target; give --small MODEL: one of the same makers and tokenizer, with a fifth of the target's parameters or fewer (staff families lists those that are known)"),
    ("auto for the smallest of its family", {}, "staff plan train.jsonl --small auto --target Qwen/Qwen3-0.6B --keep 0.5", 2, "--small auto: Qwen/Qwen3-0.6B has no smaller sibling in the table; give --small MODEL: one of the same makers and tokenizer, with a fifth of the target's parameters or fewer (staff families lists those that are known)"),
    ("families that are not in the table", {}, "staff families gpt-4", 2, "no target in the table of families has 'gpt-4' in its name; staff families alone lists all"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_it_is_refused(case, refused):
    refused(case)
