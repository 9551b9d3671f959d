# cxr_ft in a container: `make demo` and `make test` as in the checkout, or any cxr-... command; not as root.
# Not yet built: no engine was at hand where it was written.
#   docker build -t cxr_ft .                          CPU
#   docker build -t cxr_ft --build-arg CUDA=1 .       with CUDA's libraries; run it with --gpus all
#   docker run --rm -v "$PWD/demo:/app/demo" cxr_ft make demo VENV=/opt/venv
#   docker run --rm cxr_ft make test VENV=/opt/venv
#   docker run --rm -v /data:/data:ro -v "$PWD/runs:/app/runs" cxr_ft cxr-train --help
FROM python:3.11-slim

ARG CUDA=0
# make for the two commands; pango draws the page's PDF; git names the commit in a run's record.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0 \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 cxr && mkdir /opt/venv /app && chown cxr:cxr /opt/venv /app
USER cxr
WORKDIR /app

COPY --chown=cxr:cxr requirements.txt .
# PyPI's torch brings CUDA's libraries, 3 GB; a CPU needs its smaller twin of the same version, and torchvision's.
RUN python -m venv /opt/venv \
    && if [ "$CUDA" = 1 ]; then cp requirements.txt /tmp/set.txt; else \
         sed -E 's/^(torch|torchvision)==(.*)$/\1==\2+cpu/' requirements.txt > /tmp/set.txt \
         && export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu; fi \
    && /opt/venv/bin/pip install --no-cache-dir --requirement /tmp/set.txt
COPY --chown=cxr:cxr . .
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation --editable . && touch /opt/venv/done

ENV PATH=/opt/venv/bin:$PATH HF_HUB_OFFLINE=1
CMD ["cxr-train", "--help"]
