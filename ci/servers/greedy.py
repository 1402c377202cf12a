#!/usr/bin/env python3
"""Compares the greedy tokens of OpenAI-compatible servers that have the same weights.

Usage: ci/servers/greedy.py PROMPT_FILE URL URL...

Asks every server for 32 tokens after each of a few prompts and prints how many of them equal those
of the first server, and the first that differs. Ids are compared where both servers say them
(`return_token_ids`), otherwise bytes of text. Needs the standard library alone.
"""

import json
import sys
import urllib.error
import urllib.request

TOKENS = 32


def post(url, body):
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=600) as answer:
        return json.load(answer)


def model(url):
    with urllib.request.urlopen(url + "/v1/models", timeout=60) as answer:
        return json.load(answer)["data"][0]["id"]


def generate(url, prompt):
    """Text, ids or None, and usage."""
    body = {"model": model(url), "prompt": prompt, "max_tokens": TOKENS, "temperature": 0}
    try:
        answer = post(
            url + "/v1/completions", body | {"ignore_eos": True, "return_token_ids": True}
        )
    except urllib.error.HTTPError as error:
        if error.code not in (400, 422):
            raise
        # It refuses fields that the API of OpenAI has not.
        answer = post(url + "/v1/completions", body)
    choice = answer["choices"][0]
    ids = choice.get("token_ids")
    return choice["text"], ids, answer.get("usage") or {}


def equal(left, right):
    differing = (at for at, (a, b) in enumerate(zip(left, right)) if a != b)
    return next(differing, min(len(left), len(right)))


def main():
    path, first, *others = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        text = file.read()
    prompts = [text[start : start + 200] for start in (0, 1000, 2000)]
    wanted = [generate(first, prompt) for prompt in prompts]
    for url in others:
        for number, (prompt, (text, ids, usage)) in enumerate(zip(prompts, wanted)):
            other_text, other_ids, other_usage = generate(url, prompt)
            if ids and other_ids:
                count, unit, of = equal(ids, other_ids), "tokens", len(ids)
            else:
                left, right = text.encode(), other_text.encode()
                count, unit, of = equal(left, right), "bytes", len(left)
            counts = [
                (found.get("prompt_tokens"), found.get("completion_tokens"))
                for found in (usage, other_usage)
            ]
            print(
                f"{url} prompt {number}: {count} of {of} {unit} equal;"
                f" usage {counts[0]} {counts[1]}"
            )


if __name__ == "__main__":
    main()
