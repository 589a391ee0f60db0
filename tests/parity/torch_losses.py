"""The losses written down again in PyTorch, from the papers, over explicit matrices.

Each is a class whose call takes images, texts [b e] and ids, and returns the value
whose gradient is wanted; state is plain arrays indexed by id.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def off_diagonal(matrix):
    """[b b-1]: each row without its own entry."""
    n = matrix.shape[0]
    return matrix[~torch.eye(n, dtype=torch.bool)].view(n, n - 1)


class Cyclip:
    def __call__(self, x, t, ids, scale):
        logits = scale * x @ t.T
        labels = torch.arange(len(x))
        clip = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        s = x @ t.T
        in_modal = (x @ x.T - t @ t.T).square().sum() / len(x)
        cross = (s - s.T).square().sum() / len(x)
        return clip + 0.25 * in_modal + 0.25 * cross


class Vicreg:
    def __call__(self, x, t, ids, scale):
        def terms(z):
            z = z - z.mean(0)
            std = torch.sqrt(z.var(0, unbiased=True) + 1e-4)
            cov = z.T @ z / (len(z) - 1)
            return F.relu(1 - std).mean(), off_diagonal(cov).square().sum() / z.shape[1]

        (vx, cx), (vt, ct) = terms(x), terms(t)
        return 25 * F.mse_loss(x, t) + 25 * (vx + vt) / 2 + cx + ct


class Sogclr:
    """Moving averages in the linear domain, weights as an explicit matrix."""

    def __init__(self, count, tau=0.1, gamma=0.8, eps=1e-10, hinge=None):
        self.u = [torch.full((count,), -1.0, dtype=torch.float64) for _ in range(2)]
        self.tau, self.gamma, self.eps, self.hinge = tau, gamma, eps, hinge

    def __call__(self, x, t, ids, scale):
        total = 0.0
        for side, s in enumerate((x @ t.T, t @ x.T)):
            cost = off_diagonal(s - s.diagonal()[:, None])
            if self.hinge is not None:
                cost = F.relu(cost + self.hinge).square()
            e = torch.exp(cost.detach() / self.tau)
            g, old = e.mean(1), self.u[side][ids]
            u = torch.where(old < 0, g, (1 - self.gamma) * old + self.gamma * g)
            self.u[side][ids] = u
            w = e / (u + self.eps)[:, None]
            total = total + (w * cost).mean()
        return total


class Isogclr:
    def __init__(self, count, tau=0.07, gamma=0.8, rho=6.0, eta=0.03, beta=0.9):
        new = lambda value: torch.full((count,), value, dtype=torch.float64)  # noqa: E731
        self.u, self.tau = [new(-1.0), new(-1.0)], [new(tau), new(tau)]
        self.v = [new(0.0), new(0.0)]
        self.gamma, self.rho, self.eta, self.beta = gamma, rho, eta, beta

    def __call__(self, x, t, ids, scale):
        total = 0.0
        for side, s in enumerate((x @ t.T, t @ x.T)):
            tau = self.tau[side][ids]
            d = off_diagonal(s - s.diagonal()[:, None])
            h = d.detach() / tau[:, None]
            g, old = torch.exp(h).mean(1), self.u[side][ids]
            u = torch.where(old < 0, g, (1 - self.gamma) * old + self.gamma * g)
            self.u[side][ids] = u
            w = torch.exp(h) / (u + 1e-10)[:, None]
            total = total + (w * d).mean()
            slope = torch.log(u + 1e-10) + self.rho - (w * h).mean(1)
            v = (1 - self.beta) * self.v[side][ids] + self.beta * slope.clamp(-5, 5)
            self.v[side][ids] = v
            self.tau[side][ids] = (tau - self.eta * v).clamp(0.005, 1)
        return total


class IsogclrAsPublished(Isogclr):
    """As zhqiu/contrastive-learning-iSogCLR counts: the own pair's term is in the sums,
    which are divided by the number of negatives; s = u e^-b with b a running maximum,
    both from 0, so that a first visit counts gamma times."""

    def __init__(self, count, **options):
        super().__init__(count, **options)
        new = lambda: torch.zeros(count, dtype=torch.float64)  # noqa: E731
        self.s, self.b = [new(), new()], [new(), new()]

    def __call__(self, x, t, ids, scale):
        total = 0.0
        for side, sim in enumerate((x @ t.T, t @ x.T)):
            tau = self.tau[side][ids]
            d = sim - sim.diagonal()[:, None]
            h = d.detach() / tau[:, None]
            old = self.b[side][ids]
            b = torch.maximum(old, h.max(1).values)
            e = torch.exp(h - b[:, None])
            s = (1 - self.gamma) * self.s[side][ids] * torch.exp(old - b)
            s = s + self.gamma * e.sum(1) / (len(ids) - 1)
            self.s[side][ids], self.b[side][ids] = s, b
            w = e / s.clamp(min=1e-14)[:, None]
            total = total + ((w * d).sum(1) / (len(ids) - 1)).mean()
            slope = torch.log(s) + b + self.rho - (w * h).sum(1) / (len(ids) - 1)
            v = (1 - self.beta) * self.v[side][ids] + self.beta * slope.clamp(-5, 5)
            self.v[side][ids] = v
            self.tau[side][ids] = (tau - self.eta * v).clamp(0.005, 1)
        return total


class Fastclip:
    """v0, v1 and v3, differentiated as they stand, u's past held fixed."""

    def __init__(self, count, variant="v3", gamma=1.0, rho=6.5, tau=0.07):
        self.u = [torch.full((count,), -1.0, dtype=torch.float64) for _ in range(2)]
        self.variant, self.gamma, self.rho, self.tau = variant, gamma, rho, tau

    def __call__(self, x, t, ids, scale):
        tau = self.tau if self.variant == "v1" else 1 / scale
        total = self.rho * tau if self.variant == "v3" else 0.0
        for side, s in enumerate((x @ t.T, t @ x.T)):
            g = torch.exp(off_diagonal(s - s.diagonal()[:, None]) / tau).mean(1)
            old = self.u[side][ids]
            mixed = (1 - self.gamma) * old + self.gamma * g.detach()
            u = torch.where(old < 0, g.detach(), mixed)
            self.u[side][ids] = u
            if self.variant == "v0":
                total = total + (g / (u + 1e-14)).mean()
            else:
                # d log u, as if the batch's g stood for all of it.
                log_u = torch.log(u + 1e-14) + (g - g.detach()) / (u + 1e-14)
                total = total + tau * log_u.mean() / 2
        return total


class FastclipV2(Isogclr):
    """Temperatures of their own by Adam, whose moments start after epoch 0."""

    def __init__(self, count, epoch, gamma=0.7, rho=6.5, tau=0.07, eta=0.0133):
        super().__init__(count, tau=tau, gamma=gamma, rho=rho, eta=eta)
        self.squares = [torch.zeros(count, dtype=torch.float64) for _ in range(2)]
        self.step, self.epoch = 0, epoch

    def __call__(self, x, t, ids, scale):
        total, epoch = 0.0, self.step // self.epoch
        self.step += 1
        b1, b2 = (0.9, 0.999) if epoch else (0.0, 0.0)
        for side, s in enumerate((x @ t.T, t @ x.T)):
            tau = self.tau[side][ids]
            d = off_diagonal(s - s.diagonal()[:, None])
            h = d.detach() / tau[:, None]
            g, old = torch.exp(h).mean(1), self.u[side][ids]
            u = torch.where(old < 0, g, (1 - self.gamma) * old + self.gamma * g)
            self.u[side][ids] = u
            w = torch.exp(h) / (u + 1e-14)[:, None]
            total = total + (w * d).mean()
            slope = torch.log(u + 1e-14) + self.rho - (w * h).mean(1)
            slope = slope.clamp(-5, 5)
            m = b1 * self.v[side][ids] + (1 - b1) * slope
            v = b2 * self.squares[side][ids] + (1 - b2) * slope**2
            self.v[side][ids], self.squares[side][ids] = m, v
            m, v = m / (1 - b1 ** (epoch + 1)), v / (1 - b2 ** (epoch + 1))
            moved = tau - self.eta * m / (v.sqrt() + 1e-8)
            self.tau[side][ids] = moved.clamp(0.01, 1)
        return total


class Onlineclr:
    """The course's shifted form, its first averages taken from the first batch."""

    def __init__(self, count, tau_n=0.07, tau_p=0.7, gamma=0.8):
        self.tau_n, self.tau_p, self.gamma = tau_n, tau_p, gamma
        self.u_n = self.u_p = None
        self.c_n = self.c_p = 0.0

    def __call__(self, x, t, ids, scale):
        s = x @ t.T
        neg = torch.cat([off_diagonal(s), off_diagonal(s.T)]).flatten()
        pos = torch.cat([s.diagonal(), s.diagonal()])
        m_n, m_p = neg.detach().max(), (-pos.detach()).max()
        e_n = torch.exp((neg.detach() - m_n) / self.tau_n)
        e_p = torch.exp((-pos.detach() - m_p) / self.tau_p)
        if self.u_n is None:
            self.u_n, self.u_p = e_n.sum(), e_p.sum()
        else:
            keep_n = self.u_n * torch.exp((self.c_n - m_n) / self.tau_n)
            keep_p = self.u_p * torch.exp((self.c_p - m_p) / self.tau_p)
            self.u_n = (1 - self.gamma) * keep_n + self.gamma * e_n.sum()
            self.u_p = (1 - self.gamma) * keep_p + self.gamma * e_p.sum()
        self.c_n, self.c_p = m_n, m_p
        return (e_n / self.u_n * neg).sum() - (e_p / self.u_p * pos).sum()


class HnNce:
    def __call__(self, x, t, ids, scale):
        total, alpha, beta = 0.0, 1.0, 0.25
        for logits in (scale * x @ t.T, scale * t @ x.T):
            own, others = logits.diagonal(), off_diagonal(logits)
            w = others.shape[1] * torch.softmax(beta * others, 1)
            below = alpha * own.exp() + (w * others.exp()).sum(1)
            total = total + (below.log() - own).mean() / 2
        return total


class Dcl:
    def __call__(self, x, t, ids, scale):
        total = 0.0
        for s in (x @ t.T, t @ x.T):
            own = s.diagonal()
            w = 2 - len(x) * torch.softmax(own.detach() / 0.5, 0)
            total = (
                total + (off_diagonal(scale * s).logsumexp(1) - w * scale * own).mean()
            )
        return total / 2


class Hcl:
    def __call__(self, x, t, ids, scale):
        total, beta, tau_plus = 0.0, 1.0, 0.1
        for logits in (scale * x @ t.T, scale * t @ x.T):
            p, n = logits.diagonal().exp(), off_diagonal(logits).exp()
            m = n.shape[1]
            hard = (n ** (1 + beta)).sum(1) / (n**beta).mean(1)
            g = torch.maximum(
                (hard - tau_plus * m * p) / (1 - tau_plus), m * torch.exp(-scale)
            )
            total = total - torch.log(p / (p + g)).mean() / 2
        return total


class Xbm:
    def __init__(self, count, size=16):
        self.queues, self.ids, self.size = [[], []], [], size

    def __call__(self, x, t, ids, scale):
        total, labels = 0.0, torch.arange(len(x))
        for side, (rows, columns) in enumerate(((x, t), (t, x))):
            logits = scale * rows @ columns.T
            if self.ids:
                past = torch.cat(self.queues[side])
                known = torch.cat(self.ids)
                old = scale * rows @ past.T
                old = old.masked_fill(ids[:, None] == known[None], -torch.inf)
                logits = torch.cat([logits, old], 1)
            total = total + F.cross_entropy(logits, labels) / 2
        for side, vectors in enumerate((t, x)):
            self.queues[side].append(vectors.detach().clone())
        self.ids.append(ids)
        keep = self.size // len(x)
        self.ids = self.ids[-keep:]
        self.queues = [queue[-keep:] for queue in self.queues]
        return total
