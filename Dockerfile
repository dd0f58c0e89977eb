# syntax=docker/dockerfile:1
# One image for every process of the platform, by its command: code server, webserver, daemon, worker of a queue, or all
# but the worker in one container, which is the default. It holds what the platform and its extras need, in the versions
# of the lock with which the tests run; hashes are verified. Another set of extras: `--build-arg EXTRAS=celery,spark`.
#
# It runs on a read-only root: `docker run --read-only --tmpfs /tmp`. What is written lies in the two volumes and in /tmp.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
ARG EXTRAS=celery,flights,openlineage,postgres,redis
WORKDIR /build
COPY requirements-services.lock ./
RUN sed -n '/^uv==/,/[^\\]$/p' requirements-services.lock > uv.lock \
    && python -m pip install --no-cache-dir --require-hashes --requirement uv.lock \
    && python -m venv --without-pip /opt/venv
COPY pyproject.toml README.md ./
COPY pattern_platform pattern_platform
RUN python -m uv pip install --no-cache --python /opt/venv --compile-bytecode --verify-hashes \
    --constraints requirements-services.lock ".[${EXTRAS}]" dagster-dg-cli

FROM python:${PYTHON}-slim
# The standard library comes without bytecode, and a process of a read-only root would compile it each time it starts.
RUN python -m compileall -q -x '/(site-packages|tests?)/' "$(python -c 'import os; print(os.path.dirname(os.__file__))')" \
    && groupadd --non-unique --gid 1000 platform \
    && useradd --non-unique --uid 1000 --gid 1000 --no-create-home --home-dir /tmp platform \
    && install --directory --owner 1000 --group 1000 /var/lib/dagster
COPY --from=build /opt/venv /opt/venv
WORKDIR /srv/platform
COPY platform.yaml workspace.yaml ./
COPY --chown=1000:1000 data data
COPY --chown=1000:1000 dagster.yaml /var/lib/dagster/
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    DAGSTER_HOME=/var/lib/dagster \
    PATTERN_PLATFORM_HOME=/srv/platform
USER 1000:1000
VOLUME ["/var/lib/dagster", "/srv/platform/data"]
EXPOSE 3000
# Of the webserver. A daemon is asked by `dagster-daemon liveness-check`, a code server by `dagster api grpc-health-check`.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:3000/server_info', timeout=5)"]
CMD ["dg", "dev", "-w", "workspace.yaml", "--host", "0.0.0.0", "--port", "3000"]
