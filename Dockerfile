# syntax=docker/dockerfile:1
# One image for every process of the platform, by its command: the webserver, the daemon, a code server, or all of them
# in one container, which is the default. It holds the versions of the lock, with which the tests run.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
WORKDIR /build
COPY requirements.lock ./
RUN sed -n '/^uv==/,/[^\\]$/p' requirements.lock > uv.lock \
    && pip install --no-cache-dir --require-hashes --requirement uv.lock \
    && python -m venv /opt/venv \
    && uv pip sync --no-cache --python /opt/venv --require-hashes --compile-bytecode requirements.lock
COPY pyproject.toml README.md ./
COPY pattern_platform pattern_platform
RUN uv pip install --no-cache --python /opt/venv --no-deps --compile-bytecode .

FROM python:${PYTHON}-slim
RUN useradd --create-home --uid 1000 platform && install --directory --owner platform /var/lib/dagster
COPY --from=build /opt/venv /opt/venv
WORKDIR /srv/platform
COPY platform.yaml workspace.yaml ./
COPY --chown=platform data data
COPY --chown=platform dagster.yaml /var/lib/dagster/
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DAGSTER_HOME=/var/lib/dagster \
    PATTERN_PLATFORM_HOME=/srv/platform
USER platform
VOLUME ["/var/lib/dagster", "/srv/platform/data"]
EXPOSE 3000
CMD ["dg", "dev", "-w", "workspace.yaml", "--host", "0.0.0.0", "--port", "3000"]
