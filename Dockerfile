# The project on Ray's official GPU image; it trains on CPUs just as well.
#
#   docker build -t volo .
#   mkdir -p data outputs checkpoints        # else Docker makes them, and they belong to root
#   docker run --rm --gpus all --shm-size=8g --user $(id -u):$(id -g) \
#     -v $PWD/data:/app/data -v $PWD/outputs:/app/outputs -v $PWD/checkpoints:/app/checkpoints \
#     volo python -m jobs.train --recipe quickstart
#
# PyTorch brings its own CUDA libraries (13.0), so the host's driver must be 580 or newer, whatever CUDA the base holds.

# The Ray of constraints.txt: every node of a cluster must run the same version.
FROM rayproject/ray:2.60.0-py311-gpu

# Containers run as the caller's user, whom the image does not know: Python, which lies in the home folder of `ray`,
# must be within everybody's reach, and what is written at run time needs folders open to all.
USER root
RUN chmod a+rx /home/ray \
    && install -d -m 1777 /app /app/data /app/outputs /app/checkpoints /home/volo /home/volo/cache /home/volo/matplotlib
USER ray
WORKDIR /app

# Dependencies first, without the code: a change of the code rebuilds none of this layer's gigabytes.
COPY --chown=ray pyproject.toml constraints.txt ./
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
print(*project['dependencies'], sep='\n')" > /tmp/requirements.txt \
    && pip install --no-cache-dir -c constraints.txt -r /tmp/requirements.txt \
    && rm /tmp/requirements.txt

# The code, readable for all whatever the umask of the checkout. Editable: /app holds the only copy.
COPY --chown=ray README.md LICENSE ./
COPY --chown=ray volo ./volo
COPY --chown=ray jobs ./jobs
COPY --chown=ray tune_spaces ./tune_spaces
RUN chmod -R a+rX pyproject.toml README.md LICENSE volo jobs tune_spaces \
    && pip install --no-cache-dir --no-deps -e .

# After the installs, so that none of their files lie here. USER is a name for those who ask for one: the caller's
# number has no entry in /etc/passwd.
ENV HOME=/home/volo \
    USER=volo \
    VOLO_CACHE_DIR=/home/volo/cache \
    MPLCONFIGDIR=/home/volo/matplotlib

CMD ["python", "-m", "jobs.train", "--help"]
