# Stand-in for the official slim Python image, for tests where no registry can be reached; made by scripts/standin-base.
# What a product Dockerfile may rely on is the same in both: apt, /usr/local/bin/python3 (3.11) and its venv module; of
# another architecture than the machine's it has no apt.
FROM scratch
ADD root.tar /
# Where the way out re-signs TLS, the host knows that authority and a fresh Debian does not.
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt \
    PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin
# No package lists, as in the official image.
RUN mkdir -p /usr/local/bin && ln -s /usr/bin/python3 /usr/local/bin/python3 && rm -rf /var/lib/apt/lists/*
CMD ["python3"]
