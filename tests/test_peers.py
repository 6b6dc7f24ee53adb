"Models against outside implementations from the same weights; needs the extra `bench` (pip install -e .[bench])."
import numpy as np
import pytest
import scipy.sparse as sp
import torch

from diffrec.data.graphs import bipartite_adjacency
from diffrec.data.weightings import event_weights
from diffrec.recommenders.als import ImplicitALS
from diffrec.recommenders.factorization import normal_table
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


@pytest.mark.parametrize("n_rounds", [1, 4])
def test_least_squares_end_where_those_of_implicit_end(n_rounds: int):
    "From the same vectors, solved exactly there too; its `alpha` is the confidence of an observed pair, ours + 1."
    als = pytest.importorskip("implicit.cpu.als", reason="needs the extra 'bench' (implicit)")
    interactions = random_interactions(density=.05)
    torch.manual_seed(0)
    start = normal_table(200, 16, std=.1).detach().numpy()
    theirs = als.AlternatingLeastSquares(factors=16, alpha=8., regularization=3., use_cg=False, iterations=n_rounds,
                                         num_threads=1, random_state=0, dtype=np.float32)
    theirs.item_factors, theirs.user_factors = start.copy(), np.ones((300, 16), np.float32)
    theirs.fit(sp.csr_matrix(interactions), show_progress=False)
    torch.manual_seed(0)
    ours = ImplicitALS(interactions, 16, alpha=7., ridge=3., n_rounds=n_rounds)
    assert np.abs(ours.user_factors.numpy() - theirs.user_factors).max() < 1e-3 > np.abs(ours.item_factors.numpy() - theirs.item_factors).max()


@pytest.mark.parametrize("weighting, peer", [("idf", "tfidf_weight"), ("bm25", "bm25_weight")])
def test_weights_of_events_are_those_of_implicit(weighting: str, peer: str):
    "IDF and BM25, the latter with our two settings."
    module = pytest.importorskip("implicit.nearest_neighbours", reason="needs the extra 'bench' (implicit)")
    interactions = random_interactions()
    of_items = sp.csr_matrix(interactions.T)
    theirs = module.bm25_weight(of_items, K1=1.2, B=.75) if weighting == "bm25" else module.tfidf_weight(of_items)
    ours = event_weights(interactions, weighting).T.toarray()
    assert ours.max() > 0 and np.abs(ours - theirs.toarray()).max() < 1e-5
