"""Names that are almost the name of a popular package: what a reviewer should look at twice.

A typing mistake is how most forged packages are installed (``reqeusts``, ``python-numpy``, ``tenserflow``). This says
what somebody may have meant; it refuses nothing by itself.
"""

from __future__ import annotations

from difflib import get_close_matches
from functools import lru_cache

from .packages import normal_name

#: how alike two names have to be, from 0 to 1
_ALIKE = 0.82
#: shorter names are like too many others
_SHORTEST = 4
_MOST = 3
#: signs and pairs of signs that look like another
_LOOKS_LIKE = (("rn", "m"), ("vv", "w"), ("cl", "d"), ("0", "o"), ("1", "l"), ("5", "s"))
#: what forgers, and people in a hurry, put around a name
_WRAPPINGS = ("python", "python3", "py", "py3", "lib", "package", "pkg", "official", "core", "sdk", "api", "pip")

_NAMES = """
absl-py accelerate aiobotocore aiofiles aiohttp aiosignal aiosqlite alembic altair amqp annotated-types anthropic
anyio apache-airflow apache-beam apscheduler argcomplete argon2-cffi arrow asgiref asn1crypto astropy asttokens
async-timeout asyncpg attrs autograd azure-common azure-core azure-identity azure-storage-blob babel backoff bcrypt
beautifulsoup4 bitsandbytes black bleach blinker blosc2 bokeh boto3 botocore bottleneck build cachetools catboost
celery certifi cffi chardet charset-normalizer click cloudpickle colorama coloredlogs colorlog comm confluent-kafka
contourpy coverage croniter cryptography cupy cvxpy cycler cython dask databricks-sdk datasets debugpy decorator
deepspeed defusedxml deltalake deprecated diffusers dill diskcache distlib distributed distro django
djangorestframework dnspython docker docstring-parser docutils duckdb dvc einops elasticsearch email-validator
et-xmlfile evaluate exceptiongroup execnet executing faiss-cpu faker fastapi fastavro fastjsonschema fastparquet
feedparser filelock fiona flake8 flask flask-cors flask-login flask-sqlalchemy flatbuffers flax fonttools frozenlist
fsspec future gdown gensim geopandas gevent gitdb gitpython google-api-core google-api-python-client google-auth
google-cloud-bigquery google-cloud-core google-cloud-storage googleapis-common-protos gradio graphene graphviz
greenlet grpcio grpcio-tools gunicorn gymnasium h11 h5py hatchling holoviews hpack html5lib httpcore httptools httpx
huggingface-hub hydra-core hyperframe hypothesis idna imageio imbalanced-learn importlib-metadata importlib-resources
iniconfig interpret invoke ipykernel ipython ipywidgets isodate isort itsdangerous jaraco-classes jax jaxlib jedi
jeepney jinja2 jmespath joblib jsonpatch jsonpath-ng jsonpointer jsonschema jupyter jupyter-client jupyter-core
jupyter-server jupyterhub jupyterlab kafka-python keras keyring kiwisolver kombu kubernetes langchain langchain-core
langchain-openai langgraph lazy-loader librosa lightgbm lightning llvmlite loguru lxml lz4 mako markdown
markdown-it-py markupsafe marshmallow matplotlib matplotlib-inline mccabe mlflow mne more-itertools moto mpmath msal
msgpack multidict multiprocess mypy mypy-extensions mysql-connector-python mysqlclient narwhals nbclient nbconvert
nbformat neo4j nest-asyncio networkx nltk notebook numba numexpr numpy oauthlib omegaconf onnx onnxruntime openai
opencv-python opencv-python-headless openpyxl opentelemetry-api opentelemetry-sdk optax optuna orjson packaging pandas
pandera papermill paramiko parso passlib pathspec patsy peft pendulum pexpect pillow pip pkginfo platformdirs plotly
pluggy poetry polars polars-lts-cpu pooch portalocker pre-commit prettytable prometheus-client prompt-toolkit
propcache prophet protobuf psutil psycopg psycopg2 psycopg2-binary ptyprocess pure-eval pyarrow pyasn1 pybind11
pycocotools pycparser pycryptodome pycryptodomex pycurl pydantic pydantic-core pydantic-settings pydeck pyflakes
pygithub pygments pyjwt pylint pymc pymongo pymysql pynacl pyodbc pyopenssl pyparsing pyperclip pyproj pyproject-hooks
pyspark pytest pytest-asyncio pytest-cov pytest-mock pytest-xdist python-dateutil python-docx python-dotenv
python-jose python-json-logger python-multipart python-slugify pytorch-lightning pytz pywavelets pyyaml pyzmq
qdrant-client rapidfuzz rasterio ray redis referencing regex requests requests-oauthlib requests-toolbelt responses
rfc3986 rich rpds-py rsa ruamel-yaml ruff s3fs s3transfer safetensors sagemaker scapy scikit-image scikit-learn scipy
scrapy seaborn secretstorage selenium sentence-transformers sentencepiece sentry-sdk setuptools shap shapely
shellingham simplejson six sklearn-crfsuite slack-sdk smart-open smmap sniffio snowflake-connector-python
snowflake-sqlalchemy sortedcontainers soupsieve spacy sphinx sqlalchemy sqlglot sqlmodel sqlparse sse-starlette
stack-data starlette statsmodels streamlit stripe sympy tables tabulate tenacity tensorboard tensorflow
tensorflow-probability termcolor thinc threadpoolctl tifffile tiktoken timm tinycss2 tokenizers toml tomli tomlkit
toolz torch torchaudio torchmetrics torchvision tornado tox tqdm traitlets transformers trino triton trove-classifiers
twine twisted typer types-requests typing-extensions typing-inspect tzdata tzlocal ujson umap-learn uritemplate
urllib3 uv uvicorn uvloop virtualenv wandb watchdog watchfiles wcwidth weasyprint webencodings websocket-client
websockets werkzeug wheel widgetsnbextension wrapt xarray xgboost xlrd xlsxwriter xmltodict yarl ydata-profiling
yfinance zarr zeep zipp zope-interface zstandard
"""
#: packages that very many install, and that names are compared with; normal names
POPULAR = frozenset(_NAMES.split())

#: what people write because they import it, or because conda calls it so: what they mean
MEANT = {
    "attr": "attrs",
    "bs4": "beautifulsoup4",
    "crypto": "pycryptodome",
    "cv2": "opencv-python",
    "dateutil": "python-dateutil",
    "docx": "python-docx",
    "dotenv": "python-dotenv",
    "faiss": "faiss-cpu",
    "jwt": "pyjwt",
    "opencv": "opencv-python",
    "pil": "pillow",
    "pytables": "tables",
    "pytorch": "torch",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "umap": "umap-learn",
    "yaml": "pyyaml",
}


def near_miss(name: str) -> list[str]:
    """Popular packages that somebody who wrote ``name`` may have meant, the likeliest first; at most three.

    A popular name itself, and one that is like none, gives an empty list.

    Args:
        name: in any spelling.

    Raises:
        ValueError: if it names no package (:func:`~maestro_core.packages.normal_name`).
    """
    return list(_near(normal_name(name)))


@lru_cache(maxsize=4096)
def _near(name: str) -> tuple[str, ...]:
    if name in POPULAR:
        return ()
    found = dict.fromkeys(_SKELETONS[bare] for bare in _bare_forms(name) if bare in _SKELETONS)
    if len(name) >= _SHORTEST:
        bare = _skeleton(name)
        found |= dict.fromkeys(popular for each, popular in _SKELETONS.items() if _one_slip(bare, each))
        close = get_close_matches(bare, _SKELETONS, n=_MOST, cutoff=_ALIKE)
        found |= dict.fromkeys(_SKELETONS[each] for each in close)
    return tuple(found)[:_MOST]


def _one_slip(one: str, other: str) -> bool:
    """Whether one letter is wrong, too many or missing, or two neighbours are swapped."""
    if min(len(one), len(other)) < _SHORTEST or abs(len(one) - len(other)) > 1:
        return False
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    left, right = one[start:], other[start:]
    swapped = len(left) == len(right) > 1 and left[0] == right[1] and left[1] == right[0]
    return left[1:] == right[1:] or left[1:] == right or left == right[1:] or (swapped and left[2:] == right[2:])


def _skeleton(name: str) -> str:
    """What is left of a name when look-alikes and separators are taken away."""
    text = name
    for sign, other in _LOOKS_LIKE:
        text = text.replace(sign, other)
    return text.replace("-", "")


def _bare_forms(name: str) -> list[str]:
    """Skeletons of the name without what may have been put around it."""
    words = name.split("-")
    forms = [name]
    if words[0] in _WRAPPINGS:
        forms.append("-".join(words[1:]))
    if words[-1] in _WRAPPINGS:
        forms.append("-".join(words[:-1]))
    forms.append(name.rstrip("0123456789"))
    if len(words) > 1:
        forms.append("-".join(reversed(words)))
    return [_skeleton(form) for form in forms if form]


#: skeletons of what people write -> what they mean
_SKELETONS = {_skeleton(name): meant for name, meant in MEANT.items()}
_SKELETONS |= {_skeleton(name): name for name in sorted(POPULAR)}
