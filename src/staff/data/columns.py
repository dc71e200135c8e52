"""Detect, or check, which record format and columns a file uses."""

import string
from collections.abc import Collection, Sequence
from dataclasses import replace

from staff.data.records import FORMATS, PAIRED, ROLES, Record, RecordOptions, turns_in
from staff.errors import ConfigError, DataError, unknown_name
from staff.visible import listed

# Column pairs that mean prompt and response wherever they occur together.
PAIRS = (
    ("prompt", "response"),
    ("prompt", "completion"),
    ("question", "answer"),
    ("question", "response"),
    ("query", "response"),
    ("instruction", "response"),
    ("input", "output"),
    ("inputs", "targets"),
    ("problem", "solution"),
)
# Columns that say something about a text and are no part of it.
ABOUT = frozenset(
    "id idx index url link title source date timestamp created lang language meta metadata "  # noqa: SIM905
    "license licence author split subset".split()
)
# Columns of what a text is to be classified as: it is no plain text, even if they are numbers.
LABELS = ("label", "labels")
# Columns that a prompt is made of as well: a prompt that was guessed must not leave them out.
BESIDE = frozenset(
    "context contexts input system system_prompt passage paragraph document article options "  # noqa: SIM905
    "choices history".split()
)
# The columns a format needs where no option names another, those it reads as well where a record
# has them, and the options it heeds.
REQUIRED = {
    "prompt-response": ("prompt", "response"),
    "alpaca": ("instruction", "output"),
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "messages-pair": ("prompt", "completion"),
    "text": ("text",),
}
# What chat templates get beside messages, as TRL names it.
GIVEN = ("tools", "chat_template_kwargs")
OPTIONAL = {
    "alpaca": ("input",),
    "messages": ("system", *GIVEN),
    "sharegpt": ("system", *GIVEN),
    "messages-pair": GIVEN,
}
CHAT_COLUMNS = ("messages", "conversations")
HEEDS = {
    "prompt-response": {"prompt_column", "prompt_template", "response_column"},
    "alpaca": {"response_column"},
    "messages": {"messages_column"},
    "sharegpt": {"messages_column"},
    "messages-pair": {"prompt_column", "response_column"},
    "text": {"text_column"},
}


def resolve_options(
    first_records: Sequence[Record], options: RecordOptions, *, name: str = "the data"
) -> RecordOptions:
    """Fill in the format and the columns from the first records and hold them against each other.

    Options come first, then columns in this order: messages, conversations, instruction + output,
    the pairs in `PAIRS`, text. Raises `ConfigError` (options that do not fit together) or
    `DataError` (columns that are not there, more than one reading, one that leaves out a column in
    `BESIDE`, or responses of which some are not wanted).
    """
    columns = list(dict.fromkeys(column for record in first_records for column in record))
    named = {key for key in set().union(*HEEDS.values()) if getattr(options, key) is not None}
    if options.format is not None and options.format not in FORMATS:
        raise ConfigError(unknown_name("format", options.format, FORMATS))
    for key in ("id_column", "source_column", *sorted(named - {"prompt_template"})):
        _require(getattr(options, key), columns, name)
    given = options
    format = options.format or _find_format(first_records, columns, options, name)
    if strange := sorted(named - HEEDS[format]):
        flag = "--" + strange[0].replace("_", "-")
        raise ConfigError(f"{flag} does not apply to the format {format!r}. Leave one of them out.")
    options = replace(options, format=format)
    if format in PAIRED:
        pair = _fill_pair(columns, options, name)
        if not given.format and _spells_lists(first_records, pair):
            pair = replace(pair, format="prompt-response")
        if not given.response_column:
            _refuse_judged(first_records, str(pair.response_column), name)
        refuse_left_out(first_records, given, pair, name=name)
        return pair
    refuse_left_out(first_records, given, options, name=name)
    if format in ("messages", "sharegpt") and not options.messages_column:
        found = [column for column in CHAT_COLUMNS if _chat_format(first_records, column)]
        options = replace(options, messages_column=(found or REQUIRED[format])[0])
    for column in _needed(options):
        _require(column, columns, name)
    return options


def described(options: RecordOptions) -> str:
    """The format and the columns of resolved options, in a few words.

    >>> described(RecordOptions("prompt-response", prompt_column="q", response_column="a"))
    'prompt-response (q, a)'
    """
    named = (
        *(options.prompt_template, options.prompt_column, options.response_column),
        *(options.messages_column, options.text_column),
    )
    columns = ", ".join(filter(None, named))
    return f"{options.format} ({columns})" if columns else str(options.format)


def columns_read(options: RecordOptions) -> frozenset[str]:
    """The columns that examples are made of, by resolved options."""
    return frozenset([*_needed(options), *OPTIONAL.get(str(options.format), ())])


def _needed(options: RecordOptions) -> list[str]:
    """The columns in `REQUIRED`, each replaced by what an option names in its place."""
    *first, last = REQUIRED[str(options.format)]
    if options.prompt_template is not None:
        first = template_columns(options.prompt_template)
    elif options.prompt_column:
        first = [options.prompt_column]
    named = options.response_column or options.messages_column or options.text_column
    return [*first, named or last]


def _find_format(
    records: Sequence[Record], columns: Sequence[str], options: RecordOptions, name: str
) -> str:
    if options.text_column:
        return "text"
    if options.prompt_template is not None:
        return "prompt-response"
    if options.prompt_column:
        return _pair_format(records, options.prompt_column)
    for column in (options.messages_column, *CHAT_COLUMNS):
        if column in columns and (kind := _chat_format(records, column)):
            return kind
    if options.messages_column:
        return "messages"
    if "instruction" in columns and (options.response_column or "output") in columns:
        return "alpaca"
    if options.response_column:
        return _pair_format(records, options.response_column)
    if pairs := [pair for pair in PAIRS if set(pair) <= set(columns)]:
        return _pair_format(records, pairs[0][0])
    rest = [c for c in columns if c != "text" and c.lower() not in ABOUT]
    used = (options.id_column, options.source_column)
    if "text" in columns and all(c in used or not _says(records, c) for c in rest):
        return "text"
    chats = [column for column in columns if _chat_format(records, column, keyed=True)]
    lists = [column for column in columns if _chat_format(records, column)]
    if len(records) == 1 and lists and not chats:  # a whole file in one object
        give = f"If its rows are the list in {lists[0]!r}, write that list alone to the file."
    else:
        give = "Give --prompt-column and --response-column (or --text-column for plain text"
        whole = [column for column in chats if _holds_answers(records, column)]
        give += f", --messages-column for the conversations in {_listed(whole)})" if whole else ")"
        give += "."
    raise DataError(
        f"{name}: cannot tell prompt from response. Columns: {_listed(columns)}.\n{give}"
    )


def _pair_format(records: Sequence[Record], column: str) -> str:
    """What a prompt or response column says of the two: text, or lists of messages."""
    return "messages-pair" if _chat_format(records, column) else "prompt-response"


def _chat_format(
    records: Sequence[Record], column: str | None, *, keyed: bool = False
) -> str | None:
    """The format of a column of lists of messages, or of the text of such lists.

    keyed: only where they say whose a message is, as those in texts must.
    """
    for record in records:
        value = record.get(column or "")
        turns = turns_in(value)
        if isinstance(turns, str) and turns:
            return None
        if isinstance(turns, list) and turns and isinstance(turns[0], dict):
            if (keyed or turns is not value) and not turns[0].keys() & {"from", "role"}:
                return None
            return "sharegpt" if "from" in turns[0] else "messages"
    return None


def _spells_lists(records: Sequence[Record], pair: RecordOptions) -> bool:
    """Whether one text of a pair spells a list of messages, and the other, which is none, does not.

    Then the list is text as well: messages are answered with messages.
    """
    both = (pair.prompt_column, pair.response_column)
    return all(_holds_text(records, str(column)) for column in both) and not all(
        _chat_format(records, column) for column in both
    )


def _holds_text(records: Sequence[Record], column: str) -> bool:
    return any(isinstance(record.get(column), str) for record in records)


def _says(records: Sequence[Record], column: str) -> bool:
    """Whether a column beside a text may be what is to be learnt of it."""
    if column.lower() in LABELS:
        return any(record.get(column) is not None for record in records)
    return _holds_text(records, column)


def _holds_answers(records: Sequence[Record], column: str) -> bool:
    """Whether lists of messages hold what is answered and an answer, so far as roles are known.

    Those that begin with an answer, and those without one, are halves: `chosen` and `prompt`.
    """
    for record in records:
        turns = turns_in(record.get(column))
        turns = turns if isinstance(turns, list) else []
        roles = [
            ROLES.get(str(turn.get("from", turn.get("role"))), "unknown")
            for turn in turns
            if isinstance(turn, dict)
        ]
        if roles[:1] != ["assistant"] and {"assistant", "unknown"} & set(roles):
            return True
    return False


def _fill_pair(columns: Sequence[str], options: RecordOptions, name: str) -> RecordOptions:
    """Find the prompt and response columns that no option names."""
    template = options.prompt_template
    if template is not None:
        if options.prompt_column:
            raise ConfigError("--prompt-column and --prompt-template cannot be combined.")
        for column in template_columns(template):
            _require(column, columns, name)
    prompt, response = options.prompt_column, options.response_column
    pairs = {
        (None if template is not None else prompt or p, response or r)
        for p, r in PAIRS
        if (template is not None or prompt or p in columns) and (response or r in columns)
    }
    pairs = {pair for pair in pairs if pair[0] != pair[1]}
    if len(pairs) != 1:
        found = "more than one column matches" if pairs else "no known pair of columns"
        raise DataError(
            f"{name}: cannot tell prompt from response: {found}. Columns: {_listed(columns)}.\n"
            "Give --prompt-column (or --prompt-template) and --response-column."
        )
    [(prompt, response)] = pairs
    return replace(options, prompt_column=prompt, response_column=response)


def _refuse_judged(records: Sequence[Record], response: str, name: str) -> None:
    """Raise `DataError` where a label says whether a response is wanted, as TRL has it for KTO."""
    for label in LABELS:
        if any(isinstance(record.get(label), bool) for record in records):
            raise DataError(
                f"{name}: {label!r} seems to say which responses are wanted, and all would be "
                f"learnt.\nLeave out rows of unwanted ones, or give --response-column {response} "
                "to learn them all."
            )


def refuse_left_out(
    records: Sequence[Record],
    given: RecordOptions,
    options: RecordOptions,
    *,
    name: str,
    known: Collection[str] | None = None,
) -> None:
    """Raise `DataError` where a prompt that was guessed leaves out columns in `BESIDE`.

    options: those `given`, resolved. known: columns of the first rows, which alone may be named
    in options; by default those of `records`.
    """
    alpaca = options.format == "alpaca" and not given.format
    pair = options.format == "prompt-response" and options.prompt_column != given.prompt_column
    if not (alpaca or pair):  # nothing was guessed
        return
    columns = list(dict.fromkeys(column for record in records for column in record))
    prompt: list[str | None] = [options.prompt_column]
    if alpaca:
        prompt = [column for column in ("instruction", "input") if column in columns]
    read = {*prompt, options.response_column, options.id_column, options.source_column}
    left = [
        column
        for column in columns
        if column.lower() in BESIDE
        and column not in read
        and any(_holds_something(record.get(column)) for record in records)
    ]
    if not left:
        return
    leave = "--input-format alpaca" if alpaca else f"--prompt-column {prompt[0]}"
    values = (record.get(column) for column in left for record in records)
    if all(isinstance(value, str | None) for value in values):
        first = [column for column in left if column.lower().startswith("system")]
        parts = (*first, *prompt, *(column for column in left if column not in first))
        template = "\\n".join(f"{{{part}}}" for part in parts)
        late = [column for column in left if known is not None and column not in known]
        give = f"Write {_listed(late)} into the first row, too, and give" if late else "Give"
        read_it = f"{give} --prompt-template '{template}' to include it, or"
    else:
        read_it = "Write it as text and name it in --prompt-template to include it, or give"
    raise DataError(
        f"{name}: the prompt seems to be {' and '.join(map(str, prompt))}, which leaves out "
        f"{' and '.join(map(repr, left))}.\n{read_it} {leave} to leave it out."
    )


def _holds_something(value: object) -> bool:
    """Whether it could be a part of a prompt, which a number could not."""
    if isinstance(value, str):
        return bool(value.strip())
    return isinstance(value, list | dict) and bool(value)


def _require(column: str | None, columns: Sequence[str], name: str) -> None:
    if column is not None and column not in columns:
        found = unknown_name("column", column, columns)
        found = found.replace("; Valid:", ". It has:").replace("? Valid:", "? It has:")
        raise DataError(f"{name}: {found if columns else 'it has no columns'}")


def _listed(columns: Sequence[str]) -> str:
    return listed(columns) or "none"


def template_columns(template: str) -> list[str]:
    """The columns a prompt template names; `ConfigError` where it is more than `{column}`s."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(
            f"--prompt-template {template!r}: {error}. A brace as text is doubled: {{{{ }}}}."
        ) from error
    for _, column, spec, conversion in parts:
        if column is not None and (not column or spec or conversion):
            raise ConfigError(
                f"--prompt-template {template!r}: write columns as {{name}}, without formats or "
                "conversions."
            )
    names = [column for _, column, _, _ in parts if column]
    if not names:
        raise ConfigError(f"--prompt-template {template!r} names no {{column}}.")
    return names
