"""Redaction: secrets and the user's home do not stay in text."""

import pytest

from scalevit.artifacts import redact as module
from scalevit.artifacts.redact import redact, redact_all


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://key:secret@bucket/x", "s3://***@bucket/x"),
        ("http://h/x.tar?sig=abc&se=1#t=2", "http://h/x.tar?sig=***&se=***#t=***"),
        ("see hf_abcdefghijklmnopqrst now", "see *** now"),
        ("AKIAABCDEFGHIJKLMNOP", "***"),
        ("Authorization: Bearer abc.def.ghi=", "Authorization: Bearer ***"),
        ("--set wandb_api_key=0123456789abcdef x", "--set wandb_api_key=*** x"),
        ("data.source=/data/images train.batch=8", "data.source=/data/images train.batch=8"),
        ("a@b.c wrote http://h/x", "a@b.c wrote http://h/x"),
        ("s3://bucket/part-{000..127}.tar", "s3://bucket/part-{000..127}.tar"),
    ],
)
def test_secrets_of_every_kind(text, shown):
    assert redact(text) == shown


def test_values_of_secret_environment_variables(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "verysecretvalue")
    monkeypatch.setenv("PLAIN", "harmlessvalue")
    assert redact("got verysecretvalue and harmlessvalue") == "got *** and harmlessvalue"


def test_home_and_user(monkeypatch):
    monkeypatch.setattr(module, "_home_and_user", lambda: ("/home/alice", "alice"))
    assert redact("/home/alice/runs/a /home/alicebob/x") == "~/runs/a /home/alicebob/x"
    assert redact("/scratch/alice/x") == "/scratch/user/x"


def test_nested_values():
    assert redact_all({"a": ["s3://u:p@h/x", 1, None]}) == {"a": ["s3://***@h/x", 1, None]}
