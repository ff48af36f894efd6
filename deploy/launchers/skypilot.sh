#!/bin/sh
# A launcher for SkyPilot: a cluster for this stage alone, taken down at its end whatever ends it.
#   launcher: sh {project}/deploy/launchers/skypilot.sh {nodes} {project}/deploy/launchers/skypilot.yaml
# sky itself ends with 100 for a job that failed; what the stage says of it is in its progress file.
nodes=$1 task=$2
shift 2
name=plumbline-$(date +%s)-$$

quoted() {  # the words of a command as one line of a shell
    for word; do
        printf "'%s' " "$(printf %s "$word" | sed "s/'/'\\\\''/g")"
    done
}

leave() {
    trap '' TERM INT
    kill "$launched" 2> /dev/null
    sky down --yes "$name"
    exit "$1"
}
trap 'leave 143' TERM
trap 'leave 130' INT

# Tokens, keys and passwords stay here, and so does an address that holds one; skypilot.yaml says where they belong.
secret='(TOKEN|SECRET|KEY|PASSWORD|PLUMBLINE_FEEDBACK_URL)=$'
# Both rules are those of plumbline/compute/kubernetes.py.
passed='^(PLUMBLINE_|PYTHON|HF_|NCCL_|TORCH_|OMP_|MLFLOW_TRACKING_URI)[A-Za-z0-9_]*='
variables=$(env | grep -oE "$passed" | grep -vE "$secret" | sed 's/=$//; s/^/--env /')
# If this machine dies, nobody takes the cluster down: without a sign of life its job ends, and then it goes by itself.
# shellcheck disable=SC2086
sky launch --yes --cluster "$name" --num-nodes "$nodes" --idle-minutes-to-autostop 10 --down $variables \
    --env PLUMBLINE_FOLDER="$PWD" --env PLUMBLINE_COMMAND="$(quoted "$@")" "$task" < /dev/null &
launched=$!
wait "$launched"
leave $?
