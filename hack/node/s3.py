"""An S3 server with the two buckets of the overlay try-out, on port 8333."""

import json
import signal

import boto3
from moto.server import ThreadedMotoServer

# The first process of a container ignores signals that it does not wait for. Blocked before there are threads.
ends = {signal.SIGTERM, signal.SIGINT}
signal.pthread_sigmask(signal.SIG_BLOCK, ends)
server = ThreadedMotoServer("0.0.0.0", 8333, verbose=False)
server.start()
keys = {"aws_access_key_id": "for-trying-out-only", "aws_secret_access_key": "for-trying-out-only"}
client = boto3.client("s3", endpoint_url="http://127.0.0.1:8333", region_name="us-east-1", **keys)
for bucket in ("input", "output"):
    client.create_bucket(Bucket=bucket)
# As in the overlay, everybody can read the output bucket.
statement = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::output/*"}
policy = {"Version": "2012-10-17", "Statement": [statement]}
client.put_bucket_policy(Bucket="output", Policy=json.dumps(policy))
signal.sigwait(ends)
