# Stand-in for NVIDIA's tritonserver image, for tests where no registry can be reached; made by scripts/standin-base.
# The real tritonserver 2.51 and its Python backend, from the wheel nvidia-pytriton, at the official image's paths. No CUDA,
# no other backend.
ARG STANDIN
FROM ${STANDIN}
# libpython: the Python backend's process links it. numpy: people's models take it from the system's Python; below 2, as
# this version's stub takes newer arrays for garbage.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libpython3.11 python3-numpy \
 && rm -rf /var/lib/apt/lists/*
COPY oracle.txt /tmp/oracle.txt
RUN python3 -m venv /tmp/v && /tmp/v/bin/pip install -q --no-deps --require-hashes -r /tmp/oracle.txt \
 && site=$(echo /tmp/v/lib/python3.*/site-packages) && wheel=$site/pytriton/tritonserver \
 && mkdir -p /opt/tritonserver \
 && mv "$wheel/bin" "$wheel/backends" "$wheel/caches" /opt/tritonserver/ \
 && mv "$wheel/python_backend_stubs/3.11/triton_python_backend_stub" /opt/tritonserver/backends/python/ \
 && mv "$site/nvidia_pytriton.libs" /opt/nvidia_pytriton.libs \
 && chmod +x /opt/tritonserver/bin/tritonserver /opt/tritonserver/backends/python/triton_python_backend_stub \
 && rm -rf /tmp/v /tmp/oracle.txt && useradd --create-home --uid 1000 triton-server
ENV LD_LIBRARY_PATH=/opt/nvidia_pytriton.libs TRITON_SERVER_USER=triton-server PATH=/opt/tritonserver/bin:$PATH
