"""The content blocks of an Anthropic answer, whole and as the deltas that a stream makes them of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from costbearer.simulator.openai import example
from costbearer.simulator.reply import Ask, encode
from costbearer.simulator.samplings import Course
from costbearer.simulator.text import slices, write


@dataclass(frozen=True, slots=True)
class Block:
    """One block: what a stream starts it with, its deltas with their tokens, and what it is when whole.

    `tokens` is counted where there are no deltas. `ends_sampling` marks the last block of one sampling of several.
    """

    start: dict[str, Any]
    deltas: tuple[tuple[dict[str, Any], int], ...]
    whole: dict[str, Any]
    tokens: int = 0
    ends_sampling: bool = False


def answer_blocks(ask: Ask, run: Course, tools: list[dict[str, Any]]) -> list[Block]:
    """The blocks of a reply made of these samplings; their tokens are the samplings' outputs."""
    last = run.samplings[-1]
    blocks: list[Block] = []
    for index, sampling in enumerate(run.samplings[:-1]):
        if sampling.kind == "compaction":
            blocks.append(_compaction(ask, sampling.output))
        elif sampling.kind == "advisor_message":
            blocks += _advice(ask, sampling.output)
        elif run.kind == "fallback":
            models = {"from": {"model": sampling.model}, "to": {"model": last.model}}
            blocks.append(_whole({"type": "fallback", **models}))
        elif run.kind == "advisor":
            blocks.append(_text(ask, sampling.output))
        else:
            blocks += _search(ask, index, sampling.output)
    if last.kind == "advisor_message":  # one token was all there was room for: the advice is the end
        return [*blocks, *_advice(ask, last.output)]
    visible = last.output - run.thinking
    if run.thinking:
        blocks.append(_thinking(ask, run.thinking))
    if _wants_tool(ask, tools) and visible:
        blocks += _tool_calls(ask, tools, visible)
    else:
        blocks.append(_text(ask, visible))
    return blocks


def _wants_tool(ask: Ask, tools: list[dict[str, Any]]) -> bool:
    asked = ask.body.get("tool_choice")
    kind = asked.get("type") if isinstance(asked, dict) else None
    content = ask.body["messages"][-1]["content"]
    answered = isinstance(content, list) and any(
        isinstance(part, dict) and part.get("type") == "tool_result" for part in content
    )
    return bool(tools) and not answered and kind != "none" and (bool(ask.orders.tool) or kind in ("any", "tool"))


def _text(ask: Ask, tokens: int) -> Block:
    text = write(tokens, ask.draws)
    parts = ask.orders.chunks or max(1, -(-tokens // 4))
    deltas = tuple(({"type": "text_delta", "text": part}, share) for part, share in slices(text, tokens, parts))
    return Block({"type": "text", "text": ""}, deltas, {"type": "text", "text": text})


def _thinking(ask: Ask, tokens: int) -> Block:
    # What is shown of the thinking is a summary, shorter than the tokens that are billed for it.
    text = write(-(-tokens // 3), ask.draws)
    signature = f"c2lt{ask.draws.mark:08x}"
    shown = slices(text, tokens, max(1, tokens // 8))
    deltas = [({"type": "thinking_delta", "thinking": part}, share) for part, share in shown]
    deltas.append(({"type": "signature_delta", "signature": signature}, 0))
    start = {"type": "thinking", "thinking": "", "signature": ""}
    return Block(start, tuple(deltas), {"type": "thinking", "thinking": text, "signature": signature})


def _tool_calls(ask: Ask, tools: list[dict[str, Any]], tokens: int) -> list[Block]:
    asked = ask.body.get("tool_choice")
    choice = asked if isinstance(asked, dict) else {}
    named = [tool for tool in tools if choice.get("type") == "tool" and tool.get("name") == choice.get("name")] or tools
    number = 1 if choice.get("disable_parallel_tool_use") else max(1, ask.orders.tool)
    said = min(8, tokens // 4)
    blocks = [_text(ask, said)] if said else []
    for index, (_, share) in enumerate(slices("", tokens - said, number)):
        tool = named[index % len(named)]
        arguments = example(tool.get("input_schema"), ask.draws, index)
        head = {"type": "tool_use", "id": f"toolu_{ask.response_id[-16:]}{index:04d}", "name": tool.get("name", "")}
        told = slices(encode(arguments).decode(), share, ask.orders.chunks or max(1, share // 4))
        deltas = [({"type": "input_json_delta", "partial_json": ""}, 0)]
        deltas += [({"type": "input_json_delta", "partial_json": part}, tokens_part) for part, tokens_part in told]
        blocks.append(Block({**head, "input": {}}, tuple(deltas), {**head, "input": arguments}))
    return blocks


def _search(ask: Ask, index: int, tokens: int) -> list[Block]:
    call = f"srvtoolu_{ask.response_id[-16:]}{index:04d}"
    query = {"query": f"harbour ledger {index + 1}"}
    head = {"type": "server_tool_use", "id": call, "name": "web_search"}
    delta = {"type": "input_json_delta", "partial_json": encode(query).decode()}
    result = {
        "type": "web_search_result",
        "title": f"Ledger {index + 1}",
        "url": f"https://example.com/ledger/{index + 1}",
        "encrypted_content": f"c2ltdWxhdGVk{ask.draws.mark:08x}",
        "page_age": None,
    }
    results = _whole({"type": "web_search_tool_result", "tool_use_id": call, "content": [result]}, ends_sampling=True)
    return [Block({**head, "input": {}}, ((delta, tokens),), {**head, "input": query}), results]


def _compaction(ask: Ask, tokens: int) -> Block:
    text = write(tokens, ask.draws)
    delta = {"type": "compaction_delta", "content": text}
    block = {"type": "compaction", "content": text}
    return Block({"type": "compaction", "content": None}, ((delta, tokens),), block)


def _advice(ask: Ask, tokens: int) -> list[Block]:
    call = f"srvtoolu_{ask.response_id[-16:]}adv0"
    asked = _whole({"type": "server_tool_use", "id": call, "name": "advisor", "input": {}})
    content = {"type": "advisor_result", "text": write(tokens, ask.draws), "stop_reason": "end_turn"}
    return [asked, _whole({"type": "advisor_tool_result", "tool_use_id": call, "content": content}, tokens=tokens)]


def _whole(block: dict[str, Any], *, tokens: int = 0, ends_sampling: bool = False) -> Block:
    return Block(block, (), block, tokens, ends_sampling)
