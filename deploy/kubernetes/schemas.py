"""Makes a folder of JSON schemas that kubeconform reads without a network:

schemas.py FOLDER WHEEL VERSION[,VERSION...] DEFINITION.yaml...

WHEEL is the Python package kubernetes-validate, which has those of each version of Kubernetes; a DEFINITION is a
CustomResourceDefinition.
"""

import json
import pathlib
import sys
import zipfile

import yaml


def kubernetes(folder, wheel, version):
    """Copies the schemas of one version. Their $id would have kubeconform look for the definitions on the network."""
    folder = folder / f"v{version}-standalone-strict"
    folder.mkdir(parents=True)
    source = f"/v{version}-local-strict/"
    names = [name for name in wheel.namelist() if source in name and name.endswith(".json")]
    if not names:
        sys.exit(f"schemas.py: the wheel has no schemas of Kubernetes {version}")
    for name in names:
        text = wheel.read(name).decode()
        schema = json.loads(text.replace('"/api/_definitions.json#', '"_definitions.json#'))
        schema.pop("$id", None)
        (folder / pathlib.Path(name).name).write_text(json.dumps(schema))


def custom(folder, definition):
    """Makes one schema for each version of a custom resource, under the name that kubeconform looks for."""
    spec = definition["spec"]
    group = spec["group"].split(".")[0]
    for version in spec["versions"]:
        schema = strict(version["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
        name = f"{spec['names']['kind']}-{group}-{version['name']}.json".lower()
        (folder / name).write_text(json.dumps(schema))


def strict(schema):
    """Refuses fields that are not known, as the API server's strict validation does, and says int-or-string in the terms of
    JSON schema."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    is_open = "additionalProperties" in made or made.get("x-kubernetes-preserve-unknown-fields") is True
    if made.get("type") == "object" and made.get("properties") and not is_open:
        made["additionalProperties"] = False
    if made.get("x-kubernetes-int-or-string") is True:
        made.pop("type", None)
        made.pop("anyOf", None)
        made["oneOf"] = [{"type": "string"}, {"type": "integer"}]
    return made


def main(folder, wheel, versions, *definitions):
    folder = pathlib.Path(folder)
    with zipfile.ZipFile(wheel) as wheel:
        for version in versions.split(","):
            kubernetes(folder, wheel, version)
    crds = folder / "crds"
    crds.mkdir()
    for definition in definitions:
        custom(crds, yaml.safe_load(pathlib.Path(definition).read_text()))


main(*sys.argv[1:])
