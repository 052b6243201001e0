#!/usr/bin/env bash
# What only rare tests need, and no usual run has: YARN's jars and those of s3a:// (by Maven), and MinIO (by Go; minutes).
# rare_servers.sh FOLDER: 1 GB; prints how to run those tests
set -euo pipefail
folder=$(realpath -m "${1:?a folder with room for 1 GB}")
cd "$(dirname "$0")/../.."
MINIO=github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c
hadoop=$(.venv/bin/python -c 'from importlib.resources import files; print(*files("pyspark").glob("jars/hadoop-client-api-*"))')
hadoop=${hadoop##*-} hadoop=${hadoop%.jar}

jars() {  # NAME OPTION ARTIFACT…: their jars, and those that they need
  mkdir -p "$folder/$1"
  {
    echo "<project><modelVersion>4.0.0</modelVersion><groupId>x</groupId><artifactId>x</artifactId><version>1</version><dependencies>"
    for artifact in "${@:3}"; do
      echo "<dependency><groupId>org.apache.hadoop</groupId><artifactId>$artifact</artifactId><version>$hadoop</version></dependency>"
    done
    echo "</dependencies></project>"
  } >"$folder/$1.pom"
  mvn -q -B -f "$folder/$1.pom" dependency:copy-dependencies -DoutputDirectory="$folder/$1" "$2"
}

jars yarn -DincludeScope=runtime hadoop-yarn-server-{resourcemanager,nodemanager,timelineservice}
# pyspark has the rest of Hadoop
jars hadoop-aws -DincludeArtifactIds=hadoop-aws,bundle,analyticsaccelerator-s3 hadoop-aws
mkdir -p "$folder/go"
(
  cd "$folder/go"
  [ -e go.mod ] || go mod init minio-server
  printf 'package main\n\nimport (\n\t"os"\n\n\tminio "github.com/minio/minio/cmd"\n)\n\nfunc main() { minio.Main(os.Args) }\n' >main.go
  go get "$MINIO"
  go mod tidy
  go build -o "$folder/minio" .
) >"$folder/go.log" 2>&1
cat <<END
YARN_JARS=$folder/yarn .venv/bin/python -m pytest tests/recsys/test_spark_session.py -k yarn
MINIO=$folder/minio .venv/bin/python -m pytest tests/recsys/lake tests/streaming/lake_writer tests/infra/cli/test_lake_command.py
MINIO=$folder/minio HADOOP_AWS_JARS=$folder/hadoop-aws .venv/bin/python -m pytest tests/training/features/test_s3a.py
END
