"Models against outside implementations from the same weights; needs the extra `bench` (pip install -e .[bench])."
import numpy as np
import pytest
import scipy.sparse as sp
import torch

from diffrec.data.graphs import bipartite_adjacency
from diffrec.recommenders.lightgcn import LightGCN


def random_interactions(n_users=300, n_items=200, density=.02, seed=0):
    "[U, I] ones, with some users and items that have none."
    met = np.random.default_rng(seed).random((n_users, n_items)) < density
    met[::17], met[:, ::13] = False, False
    return sp.csr_array(met.astype(np.float32))


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_lightgcn_embeddings_equal_those_of_torch_geometric(n_layers):
    "From the same layer-0 vectors, the smoothed vectors agree to 1e-5."
    geometric = pytest.importorskip("torch_geometric.nn.models", reason="needs the extra 'bench' (torch_geometric)")
    interactions = random_interactions()
    n_users, n_items = interactions.shape
    torch.manual_seed(0)
    ours = LightGCN(n_users, n_items, bipartite_adjacency(interactions), n_factors=64, n_layers=n_layers, init_std=1.)
    theirs = geometric.LightGCN(n_users + n_items, embedding_dim=64, num_layers=n_layers)
    with torch.no_grad():
        theirs.embedding.weight.copy_(torch.cat([ours.user_factors, ours.item_factors]))
        rows, columns = (torch.from_numpy(axis.astype(np.int64)) for axis in interactions.nonzero())
        one_way = torch.stack([rows, columns + n_users])
        expected = theirs.get_embedding(torch.cat([one_way, one_way.flip(0)], dim=1))
        found = torch.cat(ours.embeddings())
    assert (found - expected).abs().max() < 1e-5
