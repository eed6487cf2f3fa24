"""Objects are read and written as asked, whatever the server does meanwhile, and refusals say what to do."""

import threading

import pytest

from tests.storage.server import DROP, DROP_AFTER_SOME, HANG, LOSE_ANSWER, PASS, during, first
from volo.errors import InputError
from volo.storage import bucket as storage
from volo.storage.bucket import Bucket, StorageError, check_bucket, reason_of

NO_ANSWER = next(pattern for pattern, reason in storage.REASONS.items() if "does not answer" in reason)
LARGE = bytes(range(256)) * 50_000  # 12.8 MB: three parts


@pytest.fixture
def bucket(s3) -> Bucket:
    return Bucket(f"{s3.new_bucket()}/a/run", patience_s=20)


def test_what_is_written_comes_back_and_is_listed_under_its_own_place_alone(bucket, tmp_path):
    (tmp_path / "large").write_bytes(LARGE)
    bucket.write("one", b"1")
    bucket.write("folder/large", tmp_path / "large")
    Bucket(f"{bucket.url}.1").write("one", b"another")
    assert bucket.read("one")[0] == b"1"
    bucket.fetch("folder/large", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == LARGE
    assert {name: stat.size for name, stat in bucket.names().items()} == {"folder/large": len(LARGE), "one": 1}
    assert [*bucket.names("folder")] == ["folder/large"]
    bucket.copy("one", "two")
    bucket.delete(["one", "nothing", "folder/large"])
    assert [*bucket.names()] == ["two"]
    for read in (bucket.read, bucket.stat, lambda name: bucket.fetch(name, tmp_path / "none")):
        with pytest.raises(FileNotFoundError, match=f"{bucket.url}/one"):
            read("one")


def test_of_eight_that_create_an_object_at_once_one_does_and_a_swap_needs_the_newest_version(bucket):
    made: list[int] = []
    threads = [
        threading.Thread(target=lambda number=number: bucket.create("x", b"%d" % number) and made.append(number))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    content, etag = bucket.read("x")
    assert content == b"%d" % made[0]
    assert bucket.swap("x", b"next", etag) and not bucket.swap("x", b"late", etag)
    assert bucket.read("x")[0] == b"next"
    bucket.delete(["x"])
    assert not bucket.swap("x", b"gone", etag)


@pytest.mark.parametrize("fault", [DROP, DROP_AFTER_SOME, LOSE_ANSWER, 500, 503])
def test_a_server_that_fails_a_few_times_costs_a_few_tries(bucket, s3, tmp_path, fault):
    (tmp_path / "large").write_bytes(LARGE)
    with s3.proxy.failing(first(3, fault, "PUT")):
        bucket.write("large", tmp_path / "large")
    with s3.proxy.failing(first(2, fault, "GET")):
        bucket.fetch("large", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == LARGE
    with s3.proxy.failing(first(2, fault, "PUT")):
        assert bucket.create("new", b"mine")  # also if the answer to the first try was lost
    with s3.proxy.failing(first(2, fault, "PUT")):
        assert bucket.swap("new", b"changed", bucket.read("new")[1])
    assert bucket.read("new")[0] == b"changed"


def test_a_server_that_is_gone_for_seconds_is_waited_for(bucket, s3):
    with s3.proxy.failing(during(3, DROP)):
        bucket.write("one", b"1")
    assert bucket.read("one")[0] == b"1"


def test_a_request_without_an_answer_is_made_again(s3, tmp_path, monkeypatch):
    """As when the network between is cut: then the client ends it after 30 s, here after one."""
    monkeypatch.setattr(storage, "REQUEST_S", 1.0)
    bucket = Bucket(f"{s3.new_bucket()}/run", patience_s=20)
    (tmp_path / "large").write_bytes(LARGE)
    bucket.write("one", b"1")
    asked = {
        "write": lambda: bucket.write("large", tmp_path / "large"),
        "fetch": lambda: bucket.fetch("large", tmp_path / "copy"),
        "create": lambda: bucket.create("new", b"mine"),
        "swap": lambda: bucket.swap("new", b"changed", etag),
        "copy": lambda: bucket.copy("new", "two"),
        "names": bucket.names,
        "delete": lambda: bucket.delete(["one", "large"]),
    }
    for name, request in asked.items():
        etag = bucket.read("new")[1] if name == "swap" else ""
        with s3.proxy.failing(first(1, HANG)):
            assert request() in (None, True) or name == "names"
    assert {name: bucket.read(name)[0] for name in bucket.names()} == {"new": b"changed", "two": b"changed"}


def test_a_server_that_does_not_answer_is_given_up_with_what_to_look_at(s3):
    impatient = Bucket(f"{s3.new_bucket()}/run", patience_s=1.5)
    for fault in (HANG, DROP, 503):
        with s3.proxy.failing(lambda asking, fault=fault: fault), pytest.raises(StorageError) as told:
            impatient.write("one", b"1")
        assert told.value.filename == f"{impatient.url}/one"
        assert told.value.strerror in ("the server fails; try again later", storage.REASONS[NO_ANSWER])
    assert not impatient.names()


def test_an_object_of_which_later_parts_are_lost_does_not_appear(s3, tmp_path):
    impatient = Bucket(f"{s3.new_bucket()}/run", patience_s=1.5)
    (tmp_path / "large").write_bytes(LARGE)
    with s3.proxy.failing(lambda asking: DROP if "partNumber=2" in asking.path else PASS), pytest.raises(StorageError):
        impatient.write("large", tmp_path / "large")
    assert not impatient.names()


def test_a_place_is_checked_by_writing_there_and_nothing_stays(s3):
    place = f"{s3.new_bucket()}/runs"
    check_bucket(place, "--output-dir")
    assert not Bucket(place).names()


REFUSALS = {
    403: "access is denied; allow this user to list, read, write and delete there",
    401: "credentials are missing, wrong or expired; set AWS_ACCESS_KEY_ID",
    503: "the server fails; try again later",
    DROP: "the server does not answer; check AWS_ENDPOINT_URL and the network",
    HANG: "the server does not answer; check AWS_ENDPOINT_URL and the network",
}


@pytest.mark.parametrize("fault", REFUSALS)
def test_a_place_that_cannot_be_used_is_refused_within_ten_seconds_with_the_remedy(s3, fault):
    """The time is what it may wait, and a server that hangs does so for longer."""
    assert storage.CHECK_S + storage.CONNECT_S < 10
    place = f"{s3.new_bucket()}/runs"
    with s3.proxy.failing(lambda asking: fault), pytest.raises(InputError) as told:
        check_bucket(place, "--output-dir")
    assert fault != HANG or s3.proxy.num_hanging
    assert f"--output-dir must be a place that can be written, got '{place}': {REFUSALS[fault]}" in str(told.value)


def test_a_bucket_that_is_not_there_and_a_server_without_conditions_are_refused(s3, monkeypatch):
    with pytest.raises(InputError, match="there is no such bucket; create it, or correct its name"):
        check_bucket("s3://never-made/runs", "--output-dir")
    monkeypatch.setattr(Bucket, "create", lambda self, name, content: self.write(name, content) or True)
    with pytest.raises(InputError, match="must be a place whose server heeds `If-None-Match"):
        check_bucket(f"{s3.new_bucket()}/runs", "--output-dir")


def test_missing_credentials_are_named(s3, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(InputError, match="credentials are missing, wrong or expired; set AWS_ACCESS_KEY_ID"):
        check_bucket(f"{s3.new_bucket()}/runs", "--output-dir")


ANSWERS = {
    "status code: 301 Moved Permanently: <Error><Code>PermanentRedirect</Code>": "another region; set AWS_REGION",
    "<Code>RequestTimeTooSkewed</Code><Message>The difference": "this machine's clock is wrong; set it",
    "<Code>SignatureDoesNotMatch</Code><StringToSign>AWS4 a-secret": "credentials are missing, wrong or expired",
    "status code: 418: <Code>Teapot</Code> a-secret": "the server answers Teapot",
    "something a-secret": "the storage cannot be used like this",
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_a_server_answers_is_put_in_our_words_and_never_quoted(answer):
    assert ANSWERS[answer] in reason_of(answer)
    assert "a-secret" not in reason_of(answer)
