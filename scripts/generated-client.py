"""Makes a backup, or restores one, with the client that was generated into a directory, and follows the job to its end."""

import importlib.util
import json
import os
import sys
import time
import uuid

DEADLINE = 120  # seconds


def load(directory):
    """The generated package, under a name of our own."""
    path = os.path.join(directory, "__init__.py")
    spec = importlib.util.spec_from_file_location("holdfast_api", path, submodule_search_locations=[directory])
    module = importlib.util.module_from_spec(spec)
    sys.modules["holdfast_api"] = module
    spec.loader.exec_module(module)
    return module


def follow(client, job_id):
    from holdfast_api.api.jobs import show_job

    until = time.monotonic() + DEADLINE
    while time.monotonic() < until:
        job = show_job.sync(job_id, client=client).data
        if job.status in ("completed", "failed", "cancelled"):
            return job
        time.sleep(0.2)
    sys.exit(f"job {job_id} did not end within {DEADLINE} seconds")


def main():
    directory, url, action, argument = sys.argv[1:]
    holdfast = load(directory)
    from holdfast_api import models
    from holdfast_api.api.backup import export_backup, restore_backup, show_backup

    client = holdfast.AuthenticatedClient(
        base_url=url, token=os.environ["HOLDFAST_TOKEN"], raise_on_unexpected_status=True, httpx_args={"trust_env": False}
    )
    if action == "backup":
        answer = export_backup.sync_detailed(client=client, body=models.ExportBody(project_id=argument))
    else:
        answer = restore_backup.sync_detailed(
            client=client, body=models.RestoreBody(backup_id=uuid.UUID(argument), confirm=True)
        )
    if answer.status_code != 202:
        sys.exit(f"{answer.status_code}: {answer.content!r}")
    accepted = answer.parsed.data
    job = follow(client, accepted.job_id)
    if job.status != "completed":
        sys.exit(f"the job {job.status}: {job.error_message}")
    backup = show_backup.sync(accepted.backup_id, client=client).data
    told = {"backup_id": str(backup.id), "status": backup.status, "size": backup.size, "row_count": backup.row_count}
    json.dump(told, sys.stdout)


main()
