# The project on Ray's official image, for GPUs; it trains on CPUs just as well.
#
#   docker build -t volo .
#   mkdir -p data outputs checkpoints        # else Docker makes them, and they belong to root
#   docker run --rm --gpus all --shm-size=8g --user $(id -u):$(id -g) -v volo-cache:/home/volo/cache \
#     -v $PWD/data:/app/data -v $PWD/outputs:/app/outputs -v $PWD/checkpoints:/app/checkpoints \
#     volo python -m jobs.train --recipe quickstart
#
# PyTorch brings its own CUDA libraries (13.0), so the host's driver must be 580 or newer, whatever CUDA the base holds.
# TORCH_INDEX takes another build, from an index that pytorch.org names: for an older driver or, without those libraries,
# for machines that have no GPU. DEVICE=cpu takes Ray's image without CUDA.
#
#   docker build -t volo:cpu --build-arg DEVICE=cpu --build-arg TORCH_INDEX=URL .

# The Ray of constraints.txt: every node of a cluster must run the same version.
ARG DEVICE=gpu
FROM rayproject/ray:2.60.0-py311-${DEVICE}

# Containers run as the caller's user, whom the image does not know: Python, which lies in the home folder of `ray`,
# must be within everybody's reach, and what is written at run time needs folders open to all.
USER root
RUN chmod a+rx /home/ray \
    && install -d -m 1777 /app /app/data /app/outputs /app/checkpoints /home/volo /home/volo/cache /home/volo/matplotlib
USER ray
WORKDIR /app

# From the largest layer, which seldom changes, to the smallest, which often does. On x86-64, PyTorch with its CUDA
# libraries and all else that it needs has 5.6 GB of installed files, the other packages 1.3 GB, the code 2 MB. A change of
# the code makes 2 MB anew, one of constraints.txt the packages too, and only another PyTorch all of it.
ARG TORCH=2.14.1
ARG TORCH_INDEX
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch==$TORCH"

COPY --chown=ray pyproject.toml constraints.txt ./
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
print(*project['dependencies'], *project['optional-dependencies']['heic'], sep='\n')" > /tmp/requirements.txt \
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

# Fetched archives and decoded images. A volume with a name outlives the container: -v volo-cache:/home/volo/cache
VOLUME /home/volo/cache

# Where `ray start` has run, whether the cluster answers; in a container for one command, whether Python finds the code.
HEALTHCHECK --interval=60s --timeout=30s --start-period=60s --retries=3 \
    CMD if [ -s "${RAY_TMPDIR:-${TMPDIR:-/tmp}}/ray/ray_current_cluster" ]; \
    then ray status > /dev/null || exit 1; else python -c "import volo" || exit 1; fi

CMD ["python", "-m", "jobs.train", "--help"]
