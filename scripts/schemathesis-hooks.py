"""What schemathesis is told beside the document: ids that exist, so that it gets past "not found", and a check that no answer has an
id of another tenant that was not in the question."""

import json
import os
import random

import schemathesis

OWN = {}
for line in os.environ["HOLDFAST_OWN_IDS"].splitlines():
    name, _, ids = line.partition("=")
    OWN[name] = [one for one in ids.split(",") if one]
FOREIGN = [one for one in os.environ["HOLDFAST_FOREIGN_IDS"].split(",") if one]
CHANCE = random.Random(1)


def own_id(path):
    """An id of ours that fits this path, of another tenant, or none."""
    collection = path.split("/{")[0]
    # A stream of a job that has not ended goes on until we leave.
    ours = OWN.get(collection, [])
    which = CHANCE.random()
    if which < 0.5 and ours:
        return CHANCE.choice(ours)
    if which < 0.75 and FOREIGN:
        return CHANCE.choice(FOREIGN)
    return None


@schemathesis.hook
def map_path_parameters(ctx, path_parameters):
    if path_parameters:
        for name in path_parameters:
            replacement = own_id(ctx.operation.path)
            if replacement is not None:
                path_parameters[name] = replacement
    return path_parameters


@schemathesis.hook
def map_body(ctx, body):
    if isinstance(body, dict):
        for name, ids in (("project_id", OWN.get("project_id", [])), ("backup_id", OWN.get("/api/backup", []))):
            if isinstance(body.get(name), str) and ids and CHANCE.random() < 0.8:
                body[name] = CHANCE.choice(ids + FOREIGN) if CHANCE.random() < 0.4 else CHANCE.choice(ids)
        if isinstance(body.get("project_ids"), list) and OWN.get("project_id") and CHANCE.random() < 0.8:
            body["project_ids"] = OWN["project_id"][:1]
    return body


@schemathesis.hook
def map_query(ctx, query):
    if query and isinstance(query.get("project_id"), str) and CHANCE.random() < 0.8:
        query["project_id"] = CHANCE.choice(OWN.get("project_id", []) + FOREIGN)
    return query


@schemathesis.check
def no_other_tenants_id(ctx, response, case):
    """No answer has an id or name of another tenant that the question did not have; a question about one is refused or finds nothing."""
    asked = json.dumps([str(case.formatted_path), str(case.query), str(case.body)])
    told = response.content.decode(errors="replace")
    for one in FOREIGN:
        if one in told and one not in asked:
            raise AssertionError(f"the answer has {one}, which is another tenant's")
    for name, value in (case.path_parameters or {}).items():
        if str(value) in FOREIGN and not 400 <= response.status_code < 500:
            raise AssertionError(f"{name} is another tenant's, and the answer is {response.status_code}")
