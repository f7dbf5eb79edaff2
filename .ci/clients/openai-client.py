"""PyPI's `openai` before a server of albedo: URL of the routes as the first argument."""

import asyncio
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="none", timeout=100, max_retries=0)
ASK = [{"role": "user", "content": "ballotbox: test_votes fails"}]


def chat(**options):
    return client.chat.completions.create(
        **{"model": "king", "messages": ASK, "max_tokens": 32, "temperature": 0, "seed": 7, **options}
    )


def refused(kind, words, call):
    try:
        call()
    except kind as error:
        assert words in str(error), f"{words!r} is not in {error}"
        return error
    raise AssertionError(f"no {kind.__name__} with {words!r}")


# Models.
names = sorted(model.id for model in client.models.list())
assert names == ["challenger", "king"], names
assert client.models.retrieve("king").id == "king"

# Whole and streamed replies are one.
for options in ({}, {"temperature": 1.0, "top_p": 0.9}, {"model": "challenger", "temperature": 0.7, "seed": 8}):
    whole = chat(**options)
    assert whole.choices[0].message.role == "assistant" and whole.choices[0].finish_reason in ("stop", "length")
    assert chat(**options).choices[0].message.content == whole.choices[0].message.content, "same seed, same reply"
    text, usage, finish, chunks = "", None, None, 0
    for chunk in chat(stream=True, stream_options={"include_usage": True}, **options):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
            chunks += 1
    assert (text, finish, usage) == (whole.choices[0].message.content, whole.choices[0].finish_reason, whole.usage)
    assert chunks > 3, "it came token by token"
others = {chat(temperature=1.0, seed=seed).choices[0].message.content for seed in range(8)}
assert len(others) > 1, "other seeds give other replies"
several = chat(temperature=1.0, n=3).choices
assert [choice.index for choice in several] == [0, 1, 2]
assert several[1].message.content == chat(temperature=1.0, seed=8).choices[0].message.content

# Stops: the text before the first, streamed or whole.
reply = chat().choices[0].message.content
stop = reply[len(reply) // 2 :][:4]
before = reply[: reply.index(stop)]
stopped = chat(stop=[stop, "never there"])
assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == (before, "stop"), stopped
pieces = [choice.delta.content or "" for chunk in chat(stop=stop, stream=True) for choice in chunk.choices]
assert "".join(pieces) == before, (pieces, before)

# Log-probabilities: the bytes of the tokens are those of the text, greedy tokens are the likeliest.
likely = chat(logprobs=True, top_logprobs=4).choices[0]
tokens = likely.logprobs.content
assert bytes(byte for token in tokens for byte in token.bytes).decode() == likely.message.content
assert all(len(token.top_logprobs) == 4 and token.logprob <= 0 for token in tokens)
assert all(token.top_logprobs[0].token == token.token for token in tokens)
streamed = [
    token
    for chunk in chat(logprobs=True, top_logprobs=4, stream=True)
    for choice in chunk.choices
    for token in (choice.logprobs.content if choice.logprobs else [])
]
assert streamed == tokens

# Raw prompts: text, tokens, several; the prompt and its log-probabilities again.
raw = client.completions.create(model="king", prompt="THOUGHT: I look at", max_tokens=8, temperature=0, logprobs=2, echo=True)
choice = raw.choices[0]
assert choice.text.startswith("THOUGHT: I look at"), choice.text
assert "".join(choice.logprobs.tokens) == choice.text and choice.logprobs.token_logprobs[0] is None
assert choice.logprobs.text_offset[0] == 0 and len(choice.logprobs.text_offset) == len(choice.logprobs.tokens)
assert raw.usage.prompt_tokens + raw.usage.completion_tokens >= len(choice.logprobs.tokens)
both = client.completions.create(model="king", prompt=["THOUGHT: I look at", "One"], max_tokens=8, temperature=0)
assert len(both.choices) == 2 and choice.text == "THOUGHT: I look at" + both.choices[0].text
tokens = client.completions.create(model="king", prompt=[10, 20, 30], max_tokens=4, temperature=0, echo=True, logprobs=0)
assert len(tokens.choices[0].logprobs.tokens) >= 4
streamed = client.completions.create(model="king", prompt="One", max_tokens=8, temperature=0, stream=True)
assert "".join(choice.text for chunk in streamed for choice in chunk.choices) == both.choices[1].text

# Errors have the classes and words of OpenAI's.
refused(openai.NotFoundError, "nobody", lambda: chat(model="nobody"))
refused(openai.NotFoundError, "nobody", lambda: client.models.retrieve("nobody"))
refused(openai.BadRequestError, "temperatur", lambda: chat(extra_body={"temperatur": 1}))
refused(openai.BadRequestError, "temperature", lambda: chat(temperature=3))
refused(openai.BadRequestError, "messages", lambda: chat(messages=[]))
refused(openai.BadRequestError, "response_format", lambda: chat(response_format={"type": "json_object"}))
long = [{"role": "user", "content": "word " * 5000}]
error = refused(openai.BadRequestError, "maximum context length", lambda: chat(messages=long))
assert error.code == "context_length_exceeded", error.code
error = refused(openai.BadRequestError, "context", lambda: list(chat(messages=long, stream=True)))


async def company():
    """Streams that are left, and others that must not notice."""
    many = openai.AsyncOpenAI(base_url=sys.argv[1], api_key="none", timeout=100, max_retries=0)

    async def leave(seed):
        stream = await many.chat.completions.create(
            model="king", messages=ASK, max_tokens=2000, temperature=2, seed=seed, stream=True
        )
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                break
        await stream.close()

    async def stay():
        answer = await many.chat.completions.create(
            model="king", messages=ASK, max_tokens=32, temperature=0, seed=7
        )
        assert answer.choices[0].message.content == reply

    await asyncio.gather(*(leave(seed) for seed in range(12)), *(stay() for _ in range(12)))


asyncio.run(company())
print(f"openai {openai.__version__}: streams, stops, seeds, log-probabilities, raw prompts and errors are as it expects")
