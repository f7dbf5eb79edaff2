"""The registry's own client.

python client.py push URL FOLDER TAG   prints the digest of the manifest
python client.py pull URL DIGEST FOLDER
"""

import sys

from hippius_hub import snapshot_download, upload_folder

what, url = sys.argv[1:3]
if what == "push":
    done = upload_folder(repo_id="ns/model", folder_path=sys.argv[3], revision=sys.argv[4],
                         token="Basic dGVzdHM6dGVzdHM=", endpoint=url)
    print(done.oid)
else:
    snapshot_download("ns/model", revision=sys.argv[3], local_dir=sys.argv[4], token=False, endpoint=url)
