#!/usr/bin/env bash
# Runs the images and compose.yaml for real, with podman and without a registry: build, up, click, closed addresses, restart,
# outage, down and up again, SIGTERM. `make compose-test`, as root on Debian, installs the packages that it needs. The
# first run takes about ten minutes.
#   PYTHON_IMAGE      base image; if unset, one is made with debootstrap from this machine's own apt mirror
#   STUDIO=pull       take the real Label Studio image from a registry; the default builds one from PyPI that looks like it,
#                     under the same name in podman's own storage
#   TORCH_INDEX_URL, PIP_INDEX_URL, DEBIAN_MIRROR   as the Dockerfile's arguments (their defaults if unset)
#   AUTHORITY         file with a certificate authority of your own, which the builds trust; that of pip (PIP_CERT) if unset
#   BUILD_OPTIONS     further options of podman build, such as --network host
#   WORK, PORT, KEEP  scratch folder, host port, KEEP=1 leaves all running
set -euo pipefail

SUITE=bookworm PORT=${PORT:-18080} WORK=${WORK:-$(mktemp -d)} STUDIO=${STUDIO:-build} PROJECT=m2n2-check
for tool in podman debootstrap jq openssl; do
    command -v "$tool" > /dev/null || { echo "no $tool: make compose-test installs it, as root on Debian" >&2; exit 1; }
done
STUDIO_IMAGE=$(sed -n 's/.*image: *\(heartexlabs[^ ]*\)/\1/p' docker/compose.yaml)
AUTHORITY=${AUTHORITY:-${PIP_CERT:-}}
read -ra OPTIONS <<< "${BUILD_OPTIONS:-} ${AUTHORITY:+--secret id=authority,src=$AUTHORITY}"
for argument in TORCH_INDEX_URL PIP_INDEX_URL DEBIAN_MIRROR; do
    [ -z "${!argument:-}" ] || OPTIONS+=(--build-arg "$argument=${!argument}")
done
# HEALTHCHECK is dropped from images of podman's default format.
export BUILDAH_FORMAT=docker CONTAINERS_CONF=$WORK/containers.conf
LAST=$SECONDS

step() { printf '\n== %s (%d s)\n' "$1" $((SECONDS - LAST)); LAST=$SECONDS; }
fail() { echo "FAILED: $*" >&2; exit 1; }
quiet() { grep -v -e 'systemd connection' -e 'connect to syslog' || true; }   # podman without systemd runs no health checks
compose() { "$WORK/venv/bin/podman-compose" --env-file "$WORK/env" -p "$PROJECT" -f docker/compose.yaml "$@" 2> >(quiet >&2); }
inside() { podman exec -i "${PROJECT}_backend_1" "$@"; }
# podman-compose waits for "service_healthy" from podman 4.6 on only, and without systemd no checks run: so they are run here.
healthy() {
    for ((i = 0; i < 120; i++)); do podman healthcheck run "${PROJECT}_$1_1" > /dev/null 2>&1 && return; sleep 2; done
    podman logs --tail 20 "${PROJECT}_$1_1"; fail "$1 is not healthy"
}
finish() {
    [ -n "${KEEP:-}" ] || { compose down -v -t 20 > /dev/null 2>&1 || true; }
}
trap finish EXIT
mkdir -p "$WORK"

# Without CAP_SYS_RESOURCE podman's own limits cannot be set; crun refuses hybrid cgroups, runc does not.
cat > "$CONTAINERS_CONF" <<CONF
[containers]
default_ulimits = ["nofile=$(ulimit -Hn):$(ulimit -Hn)", "nproc=32768:32768"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
$([ -d /sys/fs/cgroup/unified ] && echo 'runtime = "runc"')
[network]
network_backend = "netavark"
CONF

if [ -z "${PYTHON_IMAGE:-}" ]; then
    PYTHON_IMAGE=localhost/m2n2-check/python:3.11
    if ! podman image exists "$PYTHON_IMAGE"; then
        mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $SUITE" | head -1)
        # python3-distutils: debootstrap resolves no virtual packages.
        debootstrap --variant=minbase --include=python3-distutils,python3.11-venv,python-is-python3,ca-certificates \
            "$SUITE" "$WORK/root" "$mirror" > "$WORK/debootstrap.log"
        rm -rf "$WORK"/root/var/cache/apt/archives/*.deb "$WORK"/root/var/lib/apt/lists/*
        tar -C "$WORK/root" --numeric-owner -c . | podman import -q --change 'CMD ["python3"]' - "$PYTHON_IMAGE"
        rm -rf "$WORK/root"
    fi
fi
step "base image $PYTHON_IMAGE"

build() { podman build -q --layers --file docker/Dockerfile --target cpu --tag "$1" --build-arg PYTHON_IMAGE="$PYTHON_IMAGE" "${OPTIONS[@]}" "$2"; }
build m2n2-backend:cpu .
podman image inspect m2n2-backend:cpu > "$WORK/image.json"
jq -e '.[0] | .Config.User == "10001:10001" and .Healthcheck.Test[1] == "python"' "$WORK/image.json" > /dev/null || fail "image's user or health check"
podman run --rm --entrypoint python m2n2-backend:cpu -c '
import importlib.util as find, numba, pandas, pathlib
assert not any(find.find_spec(name) for name in ("pip", "setuptools"))
assert not any((pathlib.Path(each.__file__).parent / "tests").exists() for each in (numba, pandas))' || fail "superfluous packages in the image"
step "backend's image, $(jq '.[0].Size / 1e6 | floor' "$WORK/image.json") MB, no pip, no tests"

# After one changed source line all layers but the last, which is small, stay the same.
mkdir "$WORK/changed" && git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$WORK/changed"
echo '# changed' >> "$WORK/changed/m2n2_backend/errors.py"
build m2n2-backend:changed "$WORK/changed"
podman image inspect m2n2-backend:changed > "$WORK/changed.json"
jq -e --slurpfile old "$WORK/image.json" '.[0].RootFS.Layers[:-1] == $old[0][0].RootFS.Layers[:-1]' "$WORK/changed.json" > /dev/null || fail "a source line makes new layers of dependencies"
podman rmi -f m2n2-backend:changed > /dev/null
step "a changed source line makes one new layer"

if [ "$STUDIO" = build ]; then
    podman build -q --tag "$STUDIO_IMAGE" --build-arg PYTHON_IMAGE="$PYTHON_IMAGE" "${OPTIONS[@]}" --file - . <<'DOCKERFILE'
ARG PYTHON_IMAGE
FROM ${PYTHON_IMAGE} AS build
ARG PIP_INDEX_URL=https://pypi.org/simple
ENV PIP_INDEX_URL=${PIP_INDEX_URL} PIP_CERT=/authorities.pem
RUN --mount=type=secret,id=authority cat /etc/ssl/certs/ca-certificates.crt $(ls /run/secrets/authority 2> /dev/null) > /authorities.pem
COPY constraints-studio.txt /
RUN python -m venv /label-studio/.venv && /label-studio/.venv/bin/pip install --no-cache-dir --constraint /constraints-studio.txt label-studio
FROM ${PYTHON_IMAGE}
ENV HOME=/label-studio LABEL_STUDIO_BASE_DATA_DIR=/label-studio/data PATH=/label-studio/.venv/bin:/usr/bin:/bin PYTHONUNBUFFERED=1
WORKDIR /label-studio
COPY --from=build /label-studio/.venv /label-studio/.venv
RUN mkdir data && chown 1001:0 . data
USER 1001
EXPOSE 8080
CMD ["label-studio"]
DOCKERFILE
fi
python3 -m venv "$WORK/venv" && "$WORK/venv/bin/pip" install -q podman-compose==1.6.0
step "Label Studio's image and podman-compose"

TOKEN=$(openssl rand -hex 20)
sed -e 's/^\(LABEL_STUDIO_PASSWORD=\).*/\1correct-horse-9/' -e "s/^\(LABEL_STUDIO_USER_TOKEN=\).*/\1$TOKEN/" \
    -e "s/^\(LABEL_STUDIO_BIND=\).*/\1127.0.0.1:$PORT/" docker/.env.example > "$WORK/env"
cat > "$WORK/studio.py" <<'PYTHON'
"""setup CONFIG PHOTOGRAPH BACKEND; connect URL; click WIDTH HEIGHT X Y: as a person and the editor do, over Label Studio's API."""
import json, sys, time, urllib.error, urllib.request
from pathlib import Path

base, token, what, *rest = sys.argv[1:]


def call(method, path, body=None, kind="application/json"):
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    request = urllib.request.Request(base + path, data, {"Authorization": f"Token {token}", "Content-Type": kind}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        sys.exit(f"{method} {path}: {error.code} {error.read().decode()[:600]}")


if what == "setup":
    config, photograph, backend = rest
    project = call("POST", "/api/projects/", {"title": "check", "label_config": Path(config).read_text()})["id"]
    head = f'--edge\r\nContent-Disposition: form-data; name="file"; filename="{Path(photograph).name}"\r\nContent-Type: image/jpeg\r\n\r\n'
    body = head.encode() + Path(photograph).read_bytes() + b"\r\n--edge--\r\n"
    call("POST", f"/api/projects/{project}/import", body, "multipart/form-data; boundary=edge")
    model = call("POST", "/api/ml", {"project": project, "url": backend, "title": "m2n2", "is_interactive": True})
    assert model["state"] == "CO" and not model["error_message"] and model["is_interactive"], model
elif what == "connect":
    call("POST", "/api/ml", {"project": 1, "url": rest[0], "title": "other"})
else:
    width, height, x, y = map(int, rest)
    percent = {"x": 100 * x / width, "y": 100 * y / height, "width": 0.3, "labels": ["Object"]}
    point = {"id": "point", "type": "keypoint", "from_name": "keypoint", "to_name": "image", "is_positive": True, "value": percent,
             "original_width": width, "original_height": height, "image_rotation": 0, "origin": "manual"}
    began = time.monotonic()
    answer = call("POST", "/api/ml/1/interactive-annotating", {"task": 1, "context": {"result": [point]}})
    if answer.get("errors"):
        sys.exit(f"no mask: {answer['errors']}")
    (region,) = answer["data"]["result"]
    assert region["type"] == "labels" and region["value"]["format"] == "rle", region
    print(f"{time.monotonic() - began:.2f} s, {answer['data']['model_version']}, score {answer['data']['score']:.2f}", file=sys.stderr)
    print(json.dumps(region["value"]["rle"]))
PYTHON
studio() { python3 "$WORK/studio.py" "http://127.0.0.1:$PORT" "$TOKEN" "$@"; }
click() { for ((i = 0; i < 30; i++)); do studio click 451 300 225 150 > "$WORK/rle.json" && return; sleep 2; done; fail "no mask"; }

compose up -d --no-build > /dev/null
healthy label-studio
healthy backend
step "up and healthy"

studio setup label_config/brush.xml m2n2_backend/samples/cat.jpg http://backend:9090
click
cp "$WORK/rle.json" "$WORK/first.json"
inside python -c 'import json, sys; from label_studio_sdk.converter.brush import decode_rle
mask = decode_rle(json.load(sys.stdin)).reshape(300, 451, 4)[..., 3] > 0
assert mask[150, 225] and 0 < mask.mean() < 0.9, mask.mean()' < "$WORK/rle.json" || fail "the mask misses the click"
inside m2n2-backend doctor || fail "doctor"
! inside m2n2-backend doctor | grep -i "already in use" || fail "doctor takes its own server for another program"
step "project, click, doctor"

for closed in 169.254.169.254 100.100.100.200 168.63.129.16 192.168.255.1 172.17.0.1 10.0.0.1; do
    ! studio connect "http://$closed:9090" > "$WORK/closed" 2>&1 || fail "Label Studio reaches $closed"
    grep -q "reserved network address" "$WORK/closed" || fail "Label Studio does not close $closed: $(cat "$WORK/closed")"
done
step "metadata, gateway and private networks are closed to Label Studio's users"

inside sh -c 'test $(id -u) = 10001 && grep -q "^CapBnd:.0*$" /proc/1/status && grep -q "^NoNewPrivs:.1" /proc/1/status' || fail "privileges"
for path in / /opt /data; do ! inside touch $path/x 2> /dev/null || fail "$path is writable"; done
inside sh -c 'touch /data/cache/x /data/huggingface/x /tmp/x && rm /data/cache/x /data/huggingface/x && ls /data/cache/numba/*/*.nbi > /dev/null' || fail "volumes"
for name in label-studio backend; do
    podman inspect "${PROJECT}_${name}_1" | jq -e '.[0].HostConfig | .Memory > 0 and .Init and .LogConfig.Size != ""' > /dev/null || fail "$name: limits"
done
podman stats --no-stream --format '{{.Name}} {{.MemUsage}}'
step "user 10001, no capabilities, read-only root, writable volumes"

podman restart -t 30 "${PROJECT}_backend_1" 2>&1 | quiet > /dev/null
click && cmp "$WORK/rle.json" "$WORK/first.json"
inside python -c 'import urllib.request as r; t = r.urlopen("http://127.0.0.1:9090/metrics").read().decode()
assert "m2n2_cache_hits_total{tier=\"disk\",worker=\"0\"} 1.0" in t' || fail "the disk cache was lost"
step "restart: same mask, from the disk cache"

podman stop "${PROJECT}_label-studio_1" 2>&1 | quiet > /dev/null
status=$(podman inspect -f '{{.State.ExitCode}}' "${PROJECT}_label-studio_1")
[ "$status" != 137 ] || fail "Label Studio ignores SIGTERM"
inside python /opt/health.py || fail "the backend's health depends on Label Studio"
! inside m2n2-backend doctor > "$WORK/doctor.txt" || fail "doctor sees no outage"
grep '^fail' "$WORK/doctor.txt"
podman start "${PROJECT}_label-studio_1" 2>&1 | quiet > /dev/null
healthy label-studio && click
step "outage of Label Studio"

compose down -t 30 > /dev/null && compose up -d --no-build > /dev/null
healthy label-studio && healthy backend && click && cmp "$WORK/rle.json" "$WORK/first.json"
step "down and up: all persisted"

began=$SECONDS
podman stop -t 30 "${PROJECT}_backend_1" 2>&1 | quiet > /dev/null
[ "$(podman inspect -f '{{.State.ExitCode}}' "${PROJECT}_backend_1")" = 0 ] || fail "SIGTERM: not a clean end"
step "SIGTERM: exit status 0 after $((SECONDS - began)) s"

compose -f docker/compose.gpu.yaml config > "$WORK/gpu.yaml"
"$WORK/venv/bin/python" - "$WORK/gpu.yaml" <<'PYTHON' || fail "compose.gpu.yaml"
import sys, yaml
services = yaml.safe_load(open(sys.argv[1]))["services"]
backend, weights = services["backend"], services["weights"]
assert {name: after["condition"] for name, after in backend["depends_on"].items()} == {
    "label-studio": "service_healthy", "weights": "service_completed_successfully"}
assert backend["build"]["target"] == "cuda" and backend["image"] == weights["image"] == "m2n2-backend:cuda"
assert backend["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
assert backend["environment"]["M2N2_DEVICE"] == "cuda" and weights["command"] == ["fetch-weights"]
assert "build" not in weights and weights["deploy"] == backend["deploy"]
PYTHON
step "compose.gpu.yaml merges"
echo "all fine, $SECONDS s; logs in $WORK"
