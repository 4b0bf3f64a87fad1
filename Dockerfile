# CPU:  docker build -t fof-jax .
# CUDA: docker build -t fof-jax:cuda --build-arg BASE=nvidia/cuda:13.0.1-base-ubuntu24.04 \
#           --build-arg EXTRAS=gpu,serve,slides .
# Run:  docker run --rm -v "$PWD:/work" fof-jax --config=phantom --workdir=runs/phantom
# The extra gpu brings CUDA's libraries as wheels; the base needs the driver's hooks only.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
ARG EXTRAS=serve,slides
# Bases of other distributions have other versions of Python's packages.
# hadolint ignore=DL3008
RUN if ! python3 -c 'import ensurepip, venv' 2> /dev/null; then \
        apt-get update && apt-get install -y --no-install-recommends python3 python3-venv \
        && rm -rf /var/lib/apt/lists/*; \
    fi
RUN python3 -m venv /opt/fof
ENV PATH=/opt/fof/bin:$PATH
COPY . /src
RUN pip install --no-cache-dir -c /src/constraints.txt "/src[${EXTRAS}]" && rm -rf /src
WORKDIR /work
RUN useradd --uid 10001 --create-home fof && chown fof /work
USER 10001
ENTRYPOINT ["fof"]
CMD ["--help"]
