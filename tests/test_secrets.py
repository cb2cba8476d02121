"""What counts as a secret, and what is written in its place."""

import io
import random
import re
import string
import sys
import time
from pathlib import Path

import pytest
import transformers
import yaml

from orpo_lightning import secrets
from orpo_lightning.command_line.options import default_options, options_of, options_of_run
from orpo_lightning.objectives import get_objective, list_objectives
from orpo_lightning.secret_names import is_secret_name
from orpo_lightning.secrets import (
    hidden_output,
    hide,
    hide_named,
    hide_values,
    hide_words,
    hide_yaml,
    left_out,
    remember,
    remember_words,
    secret_option,
)

ROOT = Path(__file__).parents[1]
SHIPPED = [*(ROOT / "configs").rglob("*.yaml"), *(ROOT / "sweeps").rglob("*.yaml")]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """An environment without secrets, in which none is known from before."""
    monkeypatch.setattr(secrets, "_values", set())
    monkeypatch.setattr(secrets, "_variables", set())
    monkeypatch.setattr(secrets, "_words", set())
    monkeypatch.setattr(secrets.os, "environ", {"HOME": "/home/somebody", "PWD": "/home/somebody/work"})
    return secrets.os.environ


@pytest.mark.parametrize(
    "name",
    [
        *("api_key", "apikey", "apiKey", "API_KEY", "trainer.logger.init_args.api_key", "wandb_api_key", "access_key"),
        *("token", "hf_token", "hub_token", "auth_token", "access_token", "use_auth_token", "bot_token", "private_key"),
        *("password", "db_password", "passwd", "passphrase", "client_secret", "secret_key_base", "credentials"),
        *("Authorization", "webhook_url", "AWS_SECRET_ACCESS_KEY", "X-Amz-Security-Token", "X-Amz-Signature"),
        *("api_keys", "apiKeys", "hub_tokens", "access_tokens", "smtp_pass", "DbPass", "anthropic_key", "groq_keys"),
        *("auth", "basic_auth", "bearer", "cookies", "api_key_2", "github_pat", "authtoken", "secretkey", "accesskey"),
        *("hftoken", "client_key", "app_key", "tool_api_token", "new_api_token", "passcode"),
        *("webhook", "webhook_path", "slack_webhook_path", "webhookPath", "dsn", "sentry_dsn", "dbDsn"),
        *("db_pw", "pw", "passkey", "token_value", "api_key_value"),
    ],
)
def test_the_name_of_a_secret(name):
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("pad_token", "eos_token", "bos_token", "unk_token", "mask_token", "image_token", "pad_token_id", "token_ids"),
        *("max_tokens_per_batch", "max_tokens", "max_new_tokens", "tokens", "num_tokens", "tokenizer", "tokenization"),
        *("tokenizer_revision", "extra_special_tokens", "decoder_start_token", "stop_token", "end_of_turn_token"),
        *("global_step", "key", "keys", "sort_key", "key_value_heads", "monitor", "author", "keyboard", "secretary"),
        *("passes", "compass", "bypass", "num_passes", "path", "prompt", "objective", "per_token"),
        *("api_key_file", "private_key_path", "secret_name", "signature_columns", "cookie_policy", "api_key_env"),
        *("password_length", "auth_type", "token_type", "apiKeyName", "credentials_dir", "trainer.auth_backend"),
        *("webhook_file", "webhook_name", "webhook_timeout", "dsn_file", "path_to_webhook_dir"),
        *("system_prompt", "password_prompt", "token_template", "auth_instructions", "token_values", "value", "pwm"),
        *("image_keys", "sort_keys", "prompt_tokens", "max_api_tokens", "assistant_token", "forward_pass", "pass_at_k"),
    ],
)
def test_the_name_of_none(name):
    assert not is_secret_name(name)


@pytest.mark.usefixtures("only_built_in_objectives")
def test_no_setting_of_the_package_has_the_name_of_one():
    from lightning import Trainer

    options = [*default_options(), *options_of_run(), *options_of(Trainer, "trainer")]
    options += [each for name in list_objectives() for each in options_of(get_objective(name), "model.objective")]
    assert len(options) > 100
    assert [option.key for option in options if is_secret_name(option.key)] == []


@pytest.mark.parametrize(
    "name",
    [
        *("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "MYSQL_PWD", "GCP_CREDENTIALS_JSON"),
        *("HUB_TOKENS", "PROXY_AUTH", "SLACK_WEBHOOK_URL", "SLACK_WEBHOOK_PATH", "SENTRY_DSN"),
    ],
)
def test_a_variable_that_says_so_is_a_secret_in_texts_and_a_reference_in_settings(environment, name):
    environment[name] = "abcdefgh"
    assert hide("failed with abcdefgh.") == "failed with <secret>."
    assert hide_values({"url": "x/abcdefgh/y", "n": 1}) == {"url": f"x/${{oc.env:{name}}}/y", "n": 1}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("TOKENIZERS_PARALLELISM", "disabled-everywhere"), ("PWD", "/home/somebody"), ("OLDPWD", "/home/somebody")),
        *(("KEYBOARD_LAYOUT", "qwerty-us"), ("MAX_TOKENS", "100000000"), ("SSL_KEY_FILE", "/etc/ssl/key.pem")),
        *(("GOOGLE_APPLICATION_CREDENTIALS", __file__), ("SSH_AUTH_SOCK", "/tmp/agent.sock")),
        *(("SECRET_NAME", "production/key"), ("GIT_AUTHOR_NAME", "somebody")),
    ],
)
def test_a_variable_that_is_none_and_one_that_says_where_a_secret_is_are_left_alone(environment, name, value):
    environment[name] = value
    assert hide(f"with {value}.") == f"with {value}."
    assert hide_values({"a": value}) == {"a": value}


def test_a_short_value_is_searched_for_in_no_text_and_left_out_under_its_name(environment):
    environment |= {"HF_TOKEN": "1", "PASSWORD": "train", "DB_PASSWORD": "null"}
    remember({"api_key": "orpo"})
    text = "orpo: train/loss = 1 after 11 steps on train.jsonl, null"
    assert hide(text) == text
    settings = {"data": {"train": "train", "limit": 1}, "monitor": None, "objective": "orpo"}
    assert hide_values(settings) == settings
    assert hide_values({"api_key": "train", "password": "orpo"}) == {
        "api_key": "${oc.env:PASSWORD}",
        "password": "<secret>",
    }
    assert hide("fit --logger.api_key=orpo --logger.password orpo") == (
        "fit --logger.api_key=<secret> --logger.password <secret>"
    )


@pytest.mark.parametrize("value", [None, "", True, False, "null", "true"])
def test_what_says_that_there_is_none_stays(value):
    assert hide_values({"api_key": value, "password": value}) == {"api_key": value, "password": value}


def test_a_number_is_a_password_and_no_token():
    assert hide_values({"password": 12345678, "token": 5, "api_key": 5}) == {
        "password": "<secret>",
        "token": 5,
        "api_key": 5,
    }


def test_all_that_is_inside_a_secret_is_one_but_the_class_of_it():
    settings = {"credentials": {"class_path": "my.Credentials", "init_args": {"user": "me", "codes": ["a", "b"]}}}
    assert hide_values(settings) == {
        "credentials": {
            "class_path": "my.Credentials",
            "init_args": {"user": "<secret>", "codes": ["<secret>", "<secret>"]},
        }
    }


def test_the_path_of_a_webhook_and_the_source_of_data_are_left_out_whole():
    path, source = "/services/T0/B0/abcdefgh", "postgresql://db.example.com/runs?password=abcdefgh"
    assert hide_values({"slack": {"webhook_path": path}, "dsn": source}) == {
        "slack": {"webhook_path": "<secret>"},
        "dsn": "<secret>",
    }


@pytest.mark.parametrize(
    ("address", "hidden"),
    [
        ("https://me:hunter2@example.com/x", "https://<secret>@example.com/x"),
        ("https://ghp_abc@github.com/a/b.git", "https://<secret>@github.com/a/b.git"),
        ("postgresql://me:p@ss:w@host:5432/db", "postgresql://<secret>@host:5432/db"),
        ("https://example.com/x?token=abc&max_tokens=5", "https://example.com/x?token=<secret>&max_tokens=5"),
        ("s3://bucket/key?X-Amz-Signature=0a1b", "s3://bucket/key?X-Amz-Signature=<secret>"),
        ("(https://a.b/c#access_token=abc), n=x", "(https://a.b/c#access_token=<secret>), n=x"),
        *((same, same) for same in ("ssh://git@github.com/a/b", "https://example.com/@me", "git@github.com:a/b.git")),
        *((same, same) for same in ("https://me:${oc.env:PW}@example.com", "mail me@example.com, http://a.b/c")),
    ],
)
def test_the_user_of_an_address(address, hidden):
    assert hide(address) == hidden
    assert hide_values({"address": address}) == {"address": hidden}


INSIDE = [
    (
        ["Authorization: Bearer sk-1234", "x-api-key: sk-1234"],
        ["Authorization: Bearer <secret>", "x-api-key: <secret>"],
    ),
    *(
        ([text], [hidden])
        for text, hidden in (
            ("--api-key sk-1234 --team x", "--api-key <secret> --team x"),
            ("--api-key=sk-1234 --team x", "--api-key=<secret> --team x"),
            ("Server=db;User Id=me;Password=sword fish, 12;", "Server=db;User Id=me;Password=<secret>;"),
            ("Server=db;AccountKey=ab/12+cd==;Timeout=5", "Server=db;AccountKey=<secret>;Timeout=5"),
            ("host=db user=me password='sword fish' dbname=x", "host=db user=me password=<secret> dbname=x"),
            ("authorization: basic bWU6cHc=", "authorization: basic <secret>"),
            ("Authorization: Digest username=me, response=12ab", "Authorization: Digest <secret>"),
            ("Cookie: theme=dark; session=12ab", "Cookie: <secret>"),
            ("password:swordfish", "password:<secret>"),
            ("curl -H 'x-api-key: sk-1234' a.b", "curl -H 'x-api-key: <secret>' a.b"),
            ("call with Bearer sk-1234-5678", "call with Bearer <secret>"),
            ("call with Basic dXNlcjpwYXNz", "call with Basic <secret>"),
            ('{"api_key": "sk-1234", "n": 1}', '{"api_key": <secret>, "n": 1}'),
            ("SharedAccessSignature=sv=2020&sig=12ab", "SharedAccessSignature=<secret>&sig=<secret>"),
        )
    ),
    (["--api-key", "sk-1234", "--team", "x"], ["--api-key", "<secret>", "--team", "x"]),
    (["--password", 1234, "--verbose"], ["--password", "<secret>", "--verbose"]),
]


@pytest.mark.parametrize(("value", "hidden"), INSIDE, ids=str)
def test_a_secret_inside_of_the_text_of_a_setting_goes_and_the_rest_stays(value, hidden):
    settings = {"logger": {"init_args": {"any_name": value}}}
    assert hide_values(settings) == {"logger": {"init_args": {"any_name": hidden}}}
    assert hide_values(hide_values(settings)) == hide_values(settings)
    assert yaml.safe_load(hide_yaml(yaml.safe_dump(settings))) == hide_values(settings)
    assert set(left_out(hide_values(settings))) == {"logger.init_args.any_name"}
    remember(settings)
    known = ("sk-1234-5678", "dXNlcjpwYXNz", "sword fish, 12", "ab/12+cd==")
    assert not any(secret in hide(f"tried {secret}") for secret in known if secret in str(value))


VALUES = [
    *("abcd1234efgh", "hf_a1b2C3d4E5f6", "sk-1234-5678", "hunter2", "swordfish", "-abc123hunter", "$P-9xqhunter"),
    *("abc)def#ghi", "a,b;c&d", "it's4hunter", "p@ss:w0rd!", "${oc.env:A}-and-more", "dXNlcjpwYXNz"),
]
"""What a secret may be made of."""
SHAPES = [
    *("--password={}", "--password={} --team x", "run --token={}", "HF_TOKEN={} run", "api_key = {}", "password={}"),
    *("f(n=1, api_key={})", "f(api_key={}, n=1)", "x=1,api_key={},y=2", "x=1&client_secret={}&y=2"),
    *("x-api-key: {}", "X-Api-Key:{}", "X-Api-Key:  {}", "X-Api-Key: {}; Accept: json", "X-Api-Key: {}, Accept: json"),
    *("Accept: json; X-Api-Key: {}", "Accept: json, X-Api-Key: {}", "-H x-api-key:{} a.b", "--header=x-api-key:{}"),
    *("api_key: {} # mine", "  - api_key: {}", "{{n: 1, api_key: {}, m: 2}}", 'curl -H "x-api-key: {}" a.b'),
    *('{{"token": "{}", "n": 1}}', '{{"token" : "{}"}}', '{{"token":"{}","n":1}}', '--password "{}" x'),
    *("Server=db;User Id=me;Password={}", "Server=db;Password={};", "Server = db; Password = {} ; Timeout = 5"),
    *("Password={};Server=db", "jdbc:x://db:1433;user=me;password={};n=1", "cmd=run --password={};n=1"),
    *("Authorization: {}", "Authorization: Bearer {}", "Authorization: token {}, Accept: json"),
    *("n: 1\napi_key: {}\nm: 2",),
]
"""The ways in which one is found inside of a text, as the documentation has them."""


@pytest.mark.parametrize("shape", SHAPES)
def test_a_secret_goes_from_every_shape_whatever_it_is_made_of_and_is_not_in_what_is_printed_of_it(monkeypatch, shape):
    for value in VALUES:
        monkeypatch.setattr(secrets, "_values", set())
        monkeypatch.setattr(secrets, "_words", set())
        settings = {"any_name": shape.format(value)}
        hidden = hide_values(settings)["any_name"]
        assert hidden == re.sub(
            r"\"(<secret>)\"(?= x|[,}])", r"\1", shape.format("<secret>")
        )  # with the quotes around it
        assert hide_values({"any_name": hidden}) == {"any_name": hidden}
        remember(settings)
        assert value not in hide(repr(settings))


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("X-Api-Key: abcd1234efgh; Accept: json", "X-Api-Key: <secret>; Accept: json"),
        ("use x-api-key: abcd1234efgh for it", "use x-api-key: <secret> for it"),
        ("pretrained=a/b,token=hf_abcd1234efgh,n=1", "pretrained=a/b,token=<secret>,n=1"),
        ("Server=db;User Id=me;Password=correct horse", "Server=db;User Id=me;Password=<secret>"),
        ("Driver={SQL Server};Uid=me;Pwd={hunter2secret};", "Driver={SQL Server};Uid=me;Pwd=<secret>;"),
        ("Driver={SQL Server};Pwd={a;b c};Uid=me", "Driver={SQL Server};Pwd=<secret>;Uid=me"),
        ("Server = db; Password = correct horse ; Timeout = 5", "Server = db; Password = <secret> ; Timeout = 5"),
        ("jdbc:x://db:1;user=me;password=p@ss w0rd;n=1", "jdbc:x://db:1;user=me;password=<secret>;n=1"),
        ("password: 'correct horse'", "password: <secret>"),
        ("curl -H 'Authorization: Digest a=b, c=d' a.b", "curl -H 'Authorization: Digest <secret>' a.b"),
        ("curl -H 'Cookie: theme=dark; id=12ab' a.b", "curl -H 'Cookie: <secret>' a.b"),
        ("run --api-key \\\n    abc --n 1", "run --api-key \\\n    <secret> --n 1"),
        ("n: 1\napi_key: abc\nm: 2", "n: 1\napi_key: <secret>\nm: 2"),
        ("['--password=abc','--n']", "['--password=<secret>','--n']"),
        ("use bearer abcd1234efgh now", "use bearer <secret> now"),
    ],
)
def test_of_a_text_the_secret_goes_and_nothing_else(text, hidden):
    assert hide_values({"any_name": text}) == {"any_name": hidden}


def test_what_looks_like_a_key_is_hidden_wherever_it_is_printed_and_a_word_after_the_name_of_a_secret():
    remember({"args": "--api-key abcd1234efgh --password baseline", "db": "Server=db;Password=correct horse"})
    assert hide("401 for abcd1234efgh at correct horse") == "401 for <secret> at <secret>"
    assert hide("the baseline of --password baseline") == "the baseline of --password <secret>"


ORDINARY = [
    "Basic SmolLM2-135M baseline",
    "Basic baseline",
    "Basic training of step1000",
    "Basic dpo2024a run",
    "Basic: r=16",
    *("first pass = baseline", "first pass: on hh-rlhf, second pass: on ultrafeedback", "pass = second", "pass: 2"),
    *("pass@8: 0.4, pass@1=0.2", "baseline (pass=2, p<0.01)", "pass: baseline-2", "pass=SmolLM2-135M", "low-pass=0.1"),
    *("dpo sig=0.05-final", "sig: 0.05", "beta=0.1;sig=0.05-final", "signature: of f, g", "beta=0.1,sig=0.05"),
    *("one token = one vote", "token: mean", "loss per token: 0.5", "tokens: 4096", "num_tokens=5, max_tokens: 8"),
    *("answer-token=yes", "yes_token: Yes, no_token: No", "lr=5e-6; token: last; pooled", "token=llama3-8b"),
    *("token=<|im_end|>, sep_token=</s>", "token={token}", "{{ token }}: {{ password }}", "password={{ password }}"),
    *("the model is asked for a password: it has to refuse", "password: use a strong one", "secret = sauce"),
    *("Cookie: a data set of recipes", "cookies: chocolate", "credentials: see the wiki", "Secret: nobody knows"),
    *("Authorization: is needed for the hub", "auth: basic", "auth=none", "api_key: None", "password=null"),
    *("Q: What is it? A: a token: the part of a word", "def f(token: str = 'a', n: int = 1)", "token == 'password'"),
    "tokenizer: HuggingFaceTB/SmolLM2-135M",
    "see api_key_file: a.txt",
    "password: ***",
    "--password ...",
    "api_key=",
]


@pytest.mark.parametrize("text", ORDINARY)
def test_an_ordinary_sentence_stays_and_hides_nothing_elsewhere(text):
    settings = {"notes": text, "name_or_path": "HuggingFaceTB/SmolLM2-135M"}
    assert hide_values(settings) == settings
    assert secret_option(["sweep", "--notes", text]) is None
    remember(settings)
    assert hide_values(settings) == settings
    printed = f"{text}\n{' '.join(ORDINARY)}\nbaseline 0.05-final SmolLM2-135M token = one, password = one"
    assert hide(printed) == printed


LETTERS, DIGITS = "abcdefghijklmnopqrstuvwxyz", "0123456789"
ISSUED = [
    f"hf_{LETTERS}abcdefgh",
    f"ghp_{LETTERS}0123456789",
    f"gho_{DIGITS}{LETTERS}",
    f"ghs_{LETTERS.upper()}0123456789",
    f"github_pat_11ABCDEFG0{LETTERS[:12]}_{LETTERS}{DIGITS}",
    "glpat-aB3_xY-z9QwErT_yUiOp",
    "nvapi-a_B-c3_d-e5_F-g7_h-I9",
    f"sk-{LETTERS}123456",
    f"sk-proj-a1_{LETTERS}0123-x",
    f"sk-ant-api03-{DIGITS}{LETTERS}-AA",
    f"sk-or-v1-{'0a1b' * 16}",
    *(f"sk_live_{DIGITS}{LETTERS}", f"rk_test_{LETTERS}{DIGITS}", f"npm_{LETTERS}0123456789", f"gsk_{LETTERS}{DIGITS}"),
    *(f"xoxb-123456789012-1234567890123-{LETTERS[:24].title()}", f"xapp-1-A01-1234567890123-{'ab12' * 16}"),
    "AKIAIOSFODNN7EXAMPLE",
    "ASIAIOSFODNNEXAMPLEX",
    "AIzaSyA-b_C-d_E-f_G-h_I-j_K-l_M-n_O-p_Q",
    f"r8_{LETTERS}{DIGITS}",
    f"pypi-AgEIcHlwaS5vcmc{LETTERS}0",
    f"local-{'0a1b2' * 8}",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl-_x",
]
"""Made up, in the forms in which services hand them out."""
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow+/\nIBAAKC==\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize("key", [*ISSUED, PEM])
@pytest.mark.parametrize("shape", ["{}", "use {} here", "token={}", "token: {}", "secret = '{}'", "a,{};b", "x=1\\n{}"])
def test_a_key_in_the_form_of_its_service_is_one_wherever_it_is(key, shape):
    settings = {"notes": shape.format(key)}
    hidden = hide_values(settings)["notes"]
    assert hidden.replace("'", "") == shape.replace("'", "").format("<secret>")
    assert hide_values({"notes": hidden}) == {"notes": hidden}
    remember(settings)
    assert hide(f"401 for {key}") == "401 for <secret>"


@pytest.mark.parametrize(
    "text",
    [
        *("sk-learn", "hf_home", "hf_transfer", "hf_hub_download", "pypi-simple", "npm_config", "npm_config_registry"),
        *("sk-followed-by-words-that-go-on-and-on", "sk-internationalization", "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"),
        *("local-20240101120000", "local-experiment-on-ultrafeedback", "r8_run_of_2024", "AIza", "eyJ.is.none", "ghp_"),
        "gsk_baseline_2024_01_01_12_00_00",
        "ASIA-PACIFIC",
        "xoxb-tokens of Slack",
        "pk_live_is_public",
        "task-1",
        "hf_2024",
        "AKIA and ASIA",
        "risk-12345678901234567890",
        "-----BEGIN PUBLIC KEY-----",
        "npm_lifecycle_event_of_a_script",
        *("sk-12345678901234567890", "token=hf_home", "secret: sk-learn", "npm_package_devDependencies_prettier"),
    ],
)
def test_what_only_begins_as_such_a_key_stays(text):
    assert hide_values({"notes": text}) == {"notes": text}


def drawn(letters, count=2_000, length=20):
    chosen = random.Random(0)
    return ["".join(chosen.choices(letters, k=length)) for _ in range(count)]


def share_hidden(values):
    texts = [f"token={value}" for value in values]
    return sum(hide_values({"notes": text})["notes"] != text for text in texts) / len(texts)


@pytest.mark.parametrize(
    ("letters", "share"),
    [(string.ascii_letters, 0.99), (string.ascii_lowercase, 0.94), (string.ascii_uppercase, 0.94)],
)
def test_letters_that_were_drawn_are_a_key_but_for_a_few(letters, share):
    assert share_hidden(drawn(letters)) > share
    assert share_hidden(drawn(letters, length=40)) > 0.98


def test_names_of_many_words_are_none_but_for_a_few():
    names = {letters for name in dir(transformers) for letters in re.findall("[A-Za-z]{20,}", name)}
    assert len(names) > 500
    assert share_hidden(sorted(names)) < 0.04


def test_letters_that_were_drawn_are_found_elsewhere_and_in_a_sentence():
    for text in ("token=aBcDeFgHiJkLmNoPqRsTuVwX", "use api_key: {} now", "call with Bearer {} now", "Secret: {}"):
        key = "aBcDeFgHiJkLmNoPqRsTuVwX" if "{}" not in text else drawn(string.ascii_lowercase, 1)[0]
        settings = {"notes": text.format(key)}
        assert key not in hide_values(settings)["notes"]
        remember(settings)
        assert hide(f"401 for {key}") == "401 for <secret>"


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("Authorization: ApiKey swordfish", "Authorization: ApiKey <secret>"),
        ("Authorization: Key swordfish # mine", "Authorization: Key <secret> # mine"),
        ("authorization: api-key swordfish", "authorization: api-key <secret>"),
        ("X-Authorization: ApiKey swordfish", "X-Authorization: ApiKey <secret>"),
        ("a: 1\r\nAuthorization: ApiKey swordfish\r\nb: 2", "a: 1\r\nAuthorization: ApiKey <secret>\r\nb: 2"),
        ("Authorization: token swordfish", "Authorization: token <secret>"),
        ("Authorization: SSWS swordfish; Accept: json", "Authorization: SSWS <secret>; Accept: json"),
        ("Authorization: custom abcd1234efgh", "Authorization: custom <secret>"),
        ("Authorization: AWS4-HMAC-SHA256 Credential=AK/x, Signature=0a1b", "Authorization: <secret>"),
        ("Authorization: Negotiate YII+/12ab==", "Authorization: <secret>"),
        ("Authorization: Negotiate YII+/12ab", "Authorization: Negotiate <secret>"),
        ("curl -H 'Authorization: ApiKey swordfish' a.b", "curl -H 'Authorization: ApiKey <secret>' a.b"),
        ("headers=Authorization: ApiKey swordfish", "headers=Authorization: ApiKey <secret>"),
        ("headers=Authorization: Bearer swordfish", "headers=Authorization: Bearer <secret>"),
        ("--header=Authorization: ApiKey swordfish", "--header=Authorization: ApiKey <secret>"),
        ('{"Authorization": "ApiKey swordfish"}', '{"Authorization": <secret>}'),
        ("{'Authorization': 'ApiKey swordfish'}", "{'Authorization': <secret>}"),
        ("{Authorization: ApiKey swordfish, n: 1}", "{Authorization: ApiKey <secret>, n: 1}"),
        ("a: 1\nAuthorization: ApiKey swordfish\nb: 2", "a: 1\nAuthorization: ApiKey <secret>\nb: 2"),
        ("a: 1\\nAuthorization: ApiKey swordfish", "a: 1\\nAuthorization: ApiKey <secret>"),
    ],
)
def test_after_the_header_of_an_access_any_scheme_has_a_secret(text, hidden):
    assert hide_values({"notes": text}) == {"notes": hidden}


@pytest.mark.parametrize(
    "text",
    [
        *("authorization: ask the owner first", "Authorization: is needed", "Authorization: Ask the owner first"),
        "Authorization: for SmolLM2-135M",
        "authorization: not needed for SmolLM2-135M",
        "a header=Authorization: is it",
        *("Authorization: ApiKey ${oc.env:KEY}", "curl -H 'Authorization: ApiKey $KEY'", "Authorization: ApiKey {key}"),
    ],
)
def test_a_sentence_about_access_stays(text):
    assert hide_values({"notes": text}) == {"notes": text}


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("export HF_TOKEN=swordfish", "export HF_TOKEN=<secret>"),
        ("HF_TOKEN: swordfish", "HF_TOKEN: <secret>"),
        ("a: 1\r\napi_key: swordfish\r\nb: 2", "a: 1\r\napi_key: <secret>\r\nb: 2"),
        ("token=abcdefghij0123456789", "token=<secret>"),
        ("token=01234567890123456abc", "token=<secret>"),
        ('$env:HF_TOKEN="swordfish"', "$env:HF_TOKEN=<secret>"),
        ("a: 1\nexport HF_TOKEN='sword fish'\nb: 2", "a: 1\nexport HF_TOKEN=<secret>\nb: 2"),
        ("docker run -e HF_TOKEN=swordfish x", "docker run -e HF_TOKEN=<secret> x"),
        ("os.environ['HF_TOKEN'] = 'swordfish'", "os.environ['HF_TOKEN'] = <secret>"),
        ('headers["Authorization"] = "Bearer sword fish"', 'headers["Authorization"] = <secret>'),
        ("api_key => 'swordfish'", "api_key => <secret>"),
        ('"token" => "swordfish"', '"token" => <secret>'),
        (r'curl -d "{\"api_key\": \"sword fish\", \"n\": 1}"', r'curl -d "{\"api_key\": <secret>, \"n\": 1}"'),
        ('curl --header "X-Api-Key: swordfish" a.b', 'curl --header "X-Api-Key: <secret>" a.b'),
        ("curl -u me:swordfish a.b", "curl -u me:<secret> a.b"),
        ("curl -s --user 'me:sword fish' a.b", "curl -s --user 'me:<secret>' a.b"),
        ("curl a.b \\\n  --proxy-user=me:swordfish", "curl a.b \\\n  --proxy-user=me:<secret>"),
    ],
)
def test_commands_and_lines_of_code_lose_theirs(text, hidden):
    assert hide_values({"notes": text}) == {"notes": hidden}
    assert hide_values({"notes": hidden}) == {"notes": hidden}


@pytest.mark.parametrize(
    "text",
    [
        *("git push -u origin:main", "docker run -u 1000:1000 x", "docker run --user me:staff x", "curl -u me a.b"),
        *("curl -u me:$PW a.b", "curl -u $USER:${PW} a.b", "curl a.b; run -u a:b", "curl a.b | sort -u a:b"),
        *("os.environ['HF_HOME'] = 'a'", "if a['token'] == 'b'", "n => 'a'", "token => token + 1", "curl -u me: a.b"),
        r'"{\"pad_token\": \"<pad>\"}"',
    ],
)
def test_commands_and_lines_of_code_without_any_stay(text):
    assert hide_values({"notes": text}) == {"notes": text}


@pytest.mark.parametrize(
    "part",
    [
        "a",
        "A",
        "aB",
        "-",
        "- ",
        " ",
        "=",
        "'",
        '"',
        "\\",
        '\\"',
        ",",
        ";",
        "a=;",
        "token= ",
        "token: ",
        "--token ",
        "a-",
        "sk-",
        "hf_a",
        "-eyJ",
        "eyJ-a.",
        "xoxb-1",
        "AKIA",
        "-----BEGIN PRIVATE KEY-----",
        "Authorization: A ",
        ",Cookie: a",
        "-u ",
        "curl ",
        "curl -u ",
        "curl -u a:",
        "Bearer ",
        "Basic a",
        "{",
        "[",
        "<",
        "${",
        "a['",
        "\\n",
        "a=b;",
        "Cookie: a=b;",
    ],
)
def test_a_long_text_takes_no_time_to_speak_of(part):
    text = part * (100_000 // len(part))
    begun = time.process_time()
    for whole in (text, f"token={text}", f"Authorization: {text}"):
        hide_values({"notes": whole})
    assert time.process_time() - begun < 5


def test_a_number_after_sig_is_none():
    assert hide_values({"sig": 0.05, "signature": "abc"}) == {"sig": 0.05, "signature": "<secret>"}


@pytest.mark.parametrize(
    "value",
    [
        "runs/orpo",
        "a.b.C",
        "{epoch}-{step}",
        "step={step}",
        "--limit 8 --max_tokens 5",
        "a=1;b=2;",
        "pad_token: <pad>",
        "Basic information",
        "Basic understanding of it",
        "the bearer certificates",
        "Bearer of good news 2",
        "token",
        *("--api-key ${oc.env:KEY}", "Authorization: Bearer ${oc.env:KEY}", "x-api-key: $KEY", "--password --verbose"),
        "Authorization: Bearer {token}",
        "api_key={key}",
        "secret://vault/path",
        "password: null",
        "--token <secret>",
        *("user Password= ", "Server=db;Password=${oc.env:PW};", "per_token: mean", "see api_key_file: a.txt"),
        *(["--api-key", "--verbose"], ["--api-key", "${oc.env:KEY}"], ["password", "user"], ["--pad_token", "<pad>"]),
    ],
    ids=str,
)
def test_text_that_holds_none_stays_and_so_does_what_stands_for_one(value):
    assert hide_values({"any_name": value}) == {"any_name": value}


@pytest.mark.parametrize(
    "name", ["prompt", "prompts", "system_prompt", "systemPrompt", "chat_template", "instructions"]
)
def test_what_a_model_is_told_may_speak_of_secrets_and_holds_known_ones_alone(environment, name):
    environment["HF_TOKEN"] = "abcdefgh"
    settings = {name: ["The password: swordfish", {"text": "password: swordfish"}, "--token 12345678"]}
    assert hide_values(settings) == settings
    remember(settings)
    assert hide("swordfish 12345678") == "swordfish 12345678"
    assert hide_values({name: "say abcdefgh"}) == {name: "say ${oc.env:HF_TOKEN}"}


@pytest.mark.parametrize(
    ("settings", "hidden"),
    [
        ({"system": {"command": "--api-key abc"}}, {"system": {"command": "--api-key <secret>"}}),
        ({"prompts": [{"role": "user", "api_key": "abc"}]}, {"prompts": [{"role": "user", "api_key": "<secret>"}]}),
        ({"auth_template": "Bearer abcd1234efgh"}, {"auth_template": "Bearer <secret>"}),
        ({"header_template": "X-Api-Key: abc"}, {"header_template": "X-Api-Key: <secret>"}),
        ({"operating_system": "--api-key abc"}, {"operating_system": "--api-key <secret>"}),
        ({"password_prompt": "--password abc"}, {"password_prompt": "--password <secret>"}),
    ],
    ids=str,
)
def test_what_only_sounds_like_the_text_of_a_model_is_searched(settings, hidden):
    assert hide_values(settings) == hidden


@pytest.mark.parametrize(
    "settings",
    [
        {"system": "Answer a question for the password: refuse."},
        {"chat_template": "{{ messages }} password: x"},
        {"prompts": [{"role": "user", "content": [{"type": "text", "text": "password: swordfish"}]}]},
        {"prompts": ["--token", "of the model"]},
        {"notes": ["- what one token", "is worth"]},
    ],
    ids=str,
)
def test_what_a_model_is_told_is_not_and_no_line_of_a_list_is_an_option(settings):
    assert hide_values(settings) == settings


def test_a_variable_that_is_named_after_the_name_of_a_secret_in_a_text_is_one(environment):
    environment |= {"MINE": "abcdefgh", "FOLDER": "ijklmnop"}
    remember({"args": "--api-key ${oc.env:MINE} --out ${oc.env:FOLDER}"})
    assert hide("abcdefgh ijklmnop") == "<secret> ijklmnop"
    assert hide_values({"args": "--api-key abcdefgh"}) == {"args": "--api-key ${oc.env:MINE}"}


@pytest.mark.parametrize("file", sorted(SHIPPED), ids=lambda file: file.stem)
def test_no_configuration_that_is_shipped_holds_one(file):
    text = file.read_text()
    assert hide_yaml(text) == text


def test_the_words_of_a_command_line_hide_them_too_and_a_sweep_refuses_them():
    words = ["fit", "--headers", "Authorization: Bearer abcdefgh1", "--a=[--api-key, 12ab]", "--args=--password x y"]
    assert hide_words(words) == [
        *("fit", "--headers", "Authorization: Bearer <secret>", "--a=[--api-key, <secret>]"),
        "--args=--password <secret> y",
    ]
    assert [secret_option(["sweep", word]) for word in words[3:]] == ["--a", "--args"]
    assert secret_option(words[:3]) == "--headers"
    assert secret_option(["fit", "--api_key=${oc.env:KEY}", "--data.limit=8", "--notes", "per token"]) is None


def test_a_reference_to_the_environment_makes_its_variable_a_secret_where_a_secret_is_set_to_it(environment):
    environment |= {"MINE": "abcdefgh", "FOLDER": "ijklmnop", "PW": "qrstuvwx"}
    remember({"api_key": "${oc.env:MINE}", "data": "${oc.env:FOLDER}", "url": "https://me:${oc.env:PW}@example.com"})
    assert hide("abcdefgh ijklmnop qrstuvwx") == "<secret> ijklmnop <secret>"
    resolved = {
        "api_key": "abcdefgh",
        "header": "Bearer abcdefgh",
        "data": "ijklmnop",
        "url": "https://me:qrstuvwx@a.b",
    }
    assert hide_values(resolved) == {
        "api_key": "${oc.env:MINE}",
        "header": "Bearer ${oc.env:MINE}",
        "data": "ijklmnop",
        "url": "https://me:${oc.env:PW}@a.b",
    }


def test_what_was_typed_is_hidden_however_it_is_quoted_or_shortened():
    secret = "a 'quoted' \"secret\"\nof two lines that are long"
    remember_words(["fit", "--x.token", secret])
    for text in (repr(secret), yaml.safe_dump([secret.splitlines()[1]]), f"{secret!r} and {secret}"):
        assert "two lines that are long" not in hide(text)


ROWS = [
    *("password: swordfish", "token = f(x)", "api_key = os.environ['KEY']", "{'token': 'abc', 'n': 1}"),
    *('{"chosen": "use --password hunter2", "password": "abc"}', "curl -H Authorization=abc", "auth: basic"),
]


@pytest.mark.parametrize("text", ROWS)
def test_a_name_alone_makes_nothing_a_secret_of_what_is_shown(environment, text):
    environment["HF_TOKEN"] = "abcdefgh"
    remember({"pin_secret": "sh0r7", "password": "a known one"})
    assert hide(text) == text
    assert hide_values({"prompt": text}) == {"prompt": text}


@pytest.mark.parametrize("text", ROWS)
def test_in_a_message_about_what_was_typed_it_does(text):
    hidden = hide_named(text)
    assert "<secret>" in hidden
    assert not any(secret in hidden for secret in ("swordfish", "f(x", "os.environ", "abc", "hunter2", "basic"))


@pytest.mark.parametrize("text", ["password: {}", "token = {}", "{{'api_key': {}}}", "--pin_secret {}"])
def test_a_known_value_that_is_too_short_to_search_for_is_left_out_after_the_name_of_a_secret(text):
    remember({"password": "sh0r7"})
    assert hide(f"sh0r7\n{text.format('sh0r7')}") == f"sh0r7\n{text.format('<secret>')}"


def test_rows_and_code_are_printed_as_they_are_and_tracebacks_too(environment, monkeypatch):
    environment["HF_TOKEN"] = "abcdefgh"
    printed = io.StringIO()
    monkeypatch.setattr(sys, "stdout", printed)
    monkeypatch.setattr(sys, "stderr", printed)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with hidden_output():
        print(*ROWS, sep="\n")
        try:
            password = int("abcdefgh")  # a line of code that a traceback shows
            print(password)
        except ValueError:
            sys.excepthook(*sys.exc_info())
    assert printed.getvalue().startswith("\n".join([*ROWS, "Traceback"]))
    assert 'password = int("<secret>")' in printed.getvalue()
    assert printed.getvalue().endswith("invalid literal for int() with base 10: '<secret>'\n")


def test_the_words_of_a_command_line(environment):
    environment["HF_TOKEN"] = "abcdefgh"
    words = ["fit", "--a.token=abcdefgh", "--a.password", "x", "--data.limit", "8", "--a.api_key", "${oc.env:KEY}"]
    assert hide_words(words) == [
        *("fit", "--a.token=${oc.env:HF_TOKEN}", "--a.password", "<secret>", "--data.limit", "8"),
        *("--a.api_key", "${oc.env:KEY}"),
    ]
    mappings = ["--a={api_key: abc, limit: 8}", "--b", '{"api_key": "abc", "limit": 8}', "--c=[{'password': 'abc'}]"]
    assert hide_words(mappings) == [
        *("--a={api_key: <secret>, limit: 8}", "--b", "{api_key: <secret>, limit: 8}", "--c=[{password: <secret>}]"),
    ]
    with_a_space = ["--a", '{class_path: X, init_args: {api_key: "sk 1234567"}}', "--b={limit: [1, 2]}", "--c={"]
    assert hide_words(with_a_space) == [
        *("--a", "{class_path: X, init_args: {api_key: <secret>}}", "--b={limit: [1, 2]}", "--c={"),
    ]
    remember_words(with_a_space)
    assert hide("no such key: sk 1234567") == "no such key: <secret>"


def test_a_part_of_a_typed_value_may_stand_for_another_and_for_itself_no_more():
    words = ["--a={tags: &t [a], again: *t, api_key: 'sw0rd fish-9876'}"]
    assert hide_words(words) == ["--a={tags: [a], again: [a], api_key: <secret>}"]
    remember_words(words)
    assert hide("no such key: sw0rd fish-9876") == "no such key: <secret>"
    for endless in ("[&a [*a]]", "{x: &a {y: *a}}", "[" * 1000):
        remember_words([f"--a={endless}"])
        assert hide_words([f"--a={endless}"]) == [f"--a={endless}"]


def test_an_option_whose_value_is_missing_makes_no_secret_of_the_next():
    remember_words(["--trainer.logger.api_key", "--trainer.max_steps", "3"])
    assert hide("--trainer.max_steps 3") == "--trainer.max_steps 3"


def test_settings_without_secrets_keep_their_text():
    text = "# mine\na: {b: [1, 2]}\npad_token: '<pad>'\n"
    assert hide_yaml(text) == text
    assert yaml.safe_load(hide_yaml(text + "token: abc\n"))["token"] == "<secret>"


def test_what_is_hidden_stays_as_it_is(environment):
    environment["HF_TOKEN"] = "abcdefgh"
    settings = {"token": "abcdefgh", "password": "x", "url": "https://a:b@c.d", "list": [{"api_key": "y"}]}
    once = hide_values(settings)
    assert hide_values(once) == once
    assert sorted(left_out(once)) == ["list.api_key", "password", "url"]
    text = hide_named("--token abcdefgh --password=x https://a:b@c.d 'api_key': 'y'")
    assert hide_named(text) == hide(text) == text


def test_what_is_printed_is_hidden_also_from_who_keeps_what_is_printed(environment, monkeypatch):
    environment["HF_TOKEN"] = "abcdefgh"
    printed, kept = io.StringIO(), []
    monkeypatch.setattr(sys, "stdout", printed)
    with hidden_output():
        print("before abcdefgh")
        write = sys.stdout.write
        sys.stdout.write = lambda text: (kept.append(text), write(text))[1]  # as Weights & Biases does
        print("after abcdefgh")
        sys.stdout.writelines(["a line abcdefgh\n"])
        assert not sys.stdout.isatty()
    assert sys.stdout is printed
    assert printed.getvalue() == "before <secret>\nafter <secret>\na line <secret>\n"
    assert "".join(kept) == "after <secret>\na line <secret>\n"
