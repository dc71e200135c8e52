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


def calls():
    """Every other one calls a tool; each has another tool, or none."""
    tool = {"type": "function", "function": {"name": "add", "description": "Adds."}}
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    return [
        {
            "messages": [
                {"role": "user", "content": f"What is {i} + 1?"},
                *(
                    [
                        {"role": "assistant", "content": None, "tool_calls": [call]},
                        {"role": "tool", "content": f"{i + 1}", "name": "add"},
                    ]
                    if i % 2
                    else []
                ),
                {"role": "assistant", "content": f"{i + 1}", "reasoning_content": f"{i}, {i + 1}."},
            ],
            "tools": [{**tool, "number": i}] if i % 3 else None,
            "chat_template_kwargs": {"mood": f"glad {i}"} if i % 2 else None,
        }
        for i in range(N)
    ]


def plain_calls():
    """The same without thoughts and arguments of the template; tools as LLaMA-Factory wants them."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    rows = []
    for row in calls():
        for message in row["messages"]:
            message.pop("reasoning_content", None)
        tools = [
            {"type": "function", "function": {**tool["function"], "parameters": schema}}
            for tool in row["tools"] or []
        ]
        rows.append({"messages": row["messages"], "tools": tools or None})
    return rows


def thinking_calls():
    """The same with thoughts."""
    rows = plain_calls()
    for row, whole in zip(rows, calls(), strict=True):
        row["messages"][-1]["reasoning_content"] = whole["messages"][-1]["reasoning_content"]
    return rows


# A chat template that writes all of that.
CALLING = (
    "{{ bos_token }}{{ mood | default('calm') }}\n{% if tools %}{{ tools | tojson }}\n{% endif %}"
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{% if m.reasoning_content %}{{ m.reasoning_content + '\n' }}{% endif %}"
    "{{ m['content'] }}{% for call in m.tool_calls or [] %}{{ call | tojson }}{% endfor %}"
    "{{ eos_token }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}{{ '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


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
TOOLS = {
    "calls": (calls, {}),
    "plain calls": (plain_calls, {}),
    "thinking calls": (thinking_calls, {}),
}


def line(record):
    return json.dumps(record) + "\n"
