"""Uses the API through a client that openapi-python-client made of its contract: `client.py URL FILM [TOKEN]`.

It is checked by `mypy --strict` and has no cast, so the types must promise what is used here. Prints what it got as
JSON.
"""

import json
import sys
import uuid
from pathlib import Path

import httpx
from tcoder_client import AuthenticatedClient, Client
from tcoder_client.api.jobs import cancel_job, get_job, list_jobs, submit_job, watch_job
from tcoder_client.api.system import get_status
from tcoder_client.api.uploads import create_upload
from tcoder_client.models import (
    ErrorCode,
    Job,
    JobList,
    JobRequest,
    JobStatus,
    OutputQuality,
    Preset,
    Problem,
    Quality,
    SystemStatus,
    UploadRequest,
    UploadResponse,
)
from tcoder_client.types import Unset

url, film, *tokens = sys.argv[1:]
# The stream of a job's events may be silent for long.
timeout = httpx.Timeout(240)
client: Client | AuthenticatedClient
if tokens:
    client = AuthenticatedClient(base_url=url, token=tokens[0], timeout=timeout)
else:
    client = Client(base_url=url, timeout=timeout)


def ended(job_id: uuid.UUID) -> Job:
    """The job at its end: its stream of events ends there."""
    while True:
        watch_job.sync_detailed(job_id, client=client)
        job = get_job.sync(job_id, client=client)
        assert isinstance(job, Job), job
        if job.status in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED):
            return job


def upload(content: bytes, request: UploadRequest) -> Job:
    ticket = create_upload.sync(client=client, body=request)
    assert isinstance(ticket, UploadResponse), ticket
    assert not isinstance(ticket.upload_url, Unset), ticket.status
    httpx.put(ticket.upload_url, content=content, timeout=timeout).raise_for_status()
    job = ended(ticket.job_id)
    assert job.input_key == ticket.input_key
    return job


request = UploadRequest(file_name="film.mp4", preset=Preset.WEB_OPTIMIZED, output_qualities=[Quality.P144])
completed = upload(Path(film).read_bytes(), request)
assert completed.status is JobStatus.COMPLETED, completed
assert not isinstance(completed.outputs, Unset)
outputs = []
for output in completed.outputs:
    assert output.quality is OutputQuality.P144
    fetched = len(httpx.get(output.url, timeout=timeout).content)
    outputs.append({"size": output.size, "container": output.container, "fetched": fetched})
times = completed.timestamps
assert not isinstance(times.created_at, Unset) and not isinstance(times.completed_at, Unset)

failed = upload(b"no film", UploadRequest(file_name="notes.txt"))
assert failed.error_code is ErrorCode.INVALIDMEDIA, failed
assert not isinstance(failed.error, Unset)

listed = list_jobs.sync(client=client, status=JobStatus.FAILED, limit=100)
assert isinstance(listed, JobList), listed
refused = create_upload.sync(client=client, body=UploadRequest(webhook_url="ftp://films.example/"))
assert isinstance(refused, Problem), refused
delayed = JobRequest(input_url="http://127.0.0.1:9/film.mp4", delay_seconds=3600, priority=-1)
submitted = submit_job.sync(client=client, body=delayed, idempotency_key=str(uuid.uuid4()))
assert isinstance(submitted, Job), submitted
cancelled = cancel_job.sync(submitted.job_id, client=client)
assert isinstance(cancelled, Job), cancelled
status = get_status.sync(client=client)
assert isinstance(status, SystemStatus), status

print(
    json.dumps(
        {
            "completed": completed.to_dict(),
            "outputs": outputs,
            "took": times.completed_at - times.created_at,
            "failed": failed.to_dict(),
            "listed": [str(job.job_id) for job in listed.jobs],
            "problem": {"kind": refused.type_, "field": refused.field},
            "submitted": {
                "status": submitted.status,
                "inputUrl": submitted.input_url,
                "priority": submitted.priority,
            },
            "cancelled": cancelled.status,
            "workers": [worker.state for worker in status.workers],
        }
    )
)
