"""Records of every format to export."""

import json

SYSTEM = {"role": "system", "content": "Be brief."}
N = 12


def pairs():
    return [{"question": f"What is {i}?", "answer": f"It is {i}.", "n": i} for i in range(N)]


def alpaca():
    return [
        {"instruction": f"Add {i}.", "input": f"{i} + 1" if i % 2 else "", "output": f"{i + 1}"}
        for i in range(N)
    ]


def chats():
    """Two answers each; every other one has a system message."""
    return [
        {
            "messages": [
                *([SYSTEM] if i % 2 else []),
                {"role": "user", "content": f"Hello {i}"},
                {"role": "assistant", "content": f"Hi {i}"},
                {"role": "user", "content": f"And {i}?"},
                {"role": "assistant", "content": f"Yes {i}"},
            ],
            "topic": f"t{i}",
        }
        for i in range(N)
    ]


def single_chats():
    return [{**row, "messages": row["messages"][:-2]} for row in chats()]


def chat_pairs():
    """As TRL has them."""
    return [
        {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}
        for row in single_chats()
    ]


def sharegpt():
    names = {"user": "human", "assistant": "gpt"}
    return [
        {
            "conversations": [
                {"from": names[m["role"]], "value": m["content"]}
                for m in row["messages"]
                if m["role"] != "system"
            ],
            "system": "Be brief." if i % 2 else "",
        }
        for i, row in enumerate(chats())
    ]


def texts():
    return [{"text": f"Line {i}\nand more"} for i in range(N)]


RECORDS = {
    "pairs": (pairs, {"prompt_column": "question", "response_column": "answer"}),
    "template": (
        pairs,
        {"prompt_template": "Q: {question}\\nA:", "response_column": "answer"},
    ),
    "alpaca": (alpaca, {}),
    "messages": (chats, {}),
    "single messages": (single_chats, {}),
    "sharegpt": (sharegpt, {}),
    "messages pair": (chat_pairs, {}),
    "text": (texts, {}),
}


def line(record):
    return json.dumps(record) + "\n"
